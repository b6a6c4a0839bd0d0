"""From images to scores: descriptions, scores of pairs, searches."""
