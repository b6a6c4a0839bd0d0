"""Embeddings of whole data sets: computed, kept in a folder, and read from it."""
