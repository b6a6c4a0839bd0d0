"""How an occluder is put before a face: templates, colours, placement, light, and the mask of what it hides."""
