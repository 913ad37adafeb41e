"""What a heat map is worth; metrics see heat maps and masks, and neither a model nor a photo."""
