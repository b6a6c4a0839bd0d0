"""How an occluder is put before a face: templates, colors, placement, light, and the mask of what it hides."""
