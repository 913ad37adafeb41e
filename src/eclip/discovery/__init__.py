"""What is in an image when nobody says: concepts out of a vocabulary, or out of a sparse autoencoder."""
