"""The pairs of an evaluation: read with their images, in groups, and written with their scores."""
