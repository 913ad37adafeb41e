"""What `eclip.train` is made of: the cache of encoded pairs, the loss, the checkpoint, the log."""
