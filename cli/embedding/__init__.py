"""The programs that embed data sets and judge embeddings."""
