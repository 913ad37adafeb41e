"""Concepts of an image without a text: words of a vocabulary, or latents of a sparse autoencoder."""
