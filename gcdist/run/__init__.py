"""What a training script holds: session, cluster, checkpoints, resuming."""
