"""What a representation is worth without training on it."""
