"""Photographs with boxes and points, and changes of both at once."""
