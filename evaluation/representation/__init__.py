"""What a representation is worth without training on it: clusters against labels, collapse, votes of neighbours."""
