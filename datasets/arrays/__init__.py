"""The image cache: faces decoded once, in shards of plain `.npy` files, in one random order."""
