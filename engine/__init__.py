"""How anything is trained: it knows Lightning, and no face."""
