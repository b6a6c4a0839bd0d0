"""Models handed to other programs."""
