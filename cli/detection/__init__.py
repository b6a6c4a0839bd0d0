"""The program that trains detectors: its checkpoints, and what it says of its task."""
