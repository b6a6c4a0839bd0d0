"""How much labelled people can be told apart by embeddings that nobody trains any more."""
