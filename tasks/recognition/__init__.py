"""The recognition of faces: its loss terms, the sharded head, validation and pictures."""
