"""Training of the head: the cache of encoded pairs, pooling and loss, checkpoints, the log."""
