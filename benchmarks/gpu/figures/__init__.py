"""What is measured on a GPU; each figure alone, since it measures time."""
