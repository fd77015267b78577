"""What master and workers share: messages, sidecars, shift arithmetic, frames, the inbox."""
