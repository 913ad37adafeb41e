"""Maps of texts over images: one method, or many side by side, and how far a map can be trusted."""
