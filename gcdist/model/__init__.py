"""The user's model, data and randomness as gradients of partitions; no protocol, no network."""
