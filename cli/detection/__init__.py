"""The program of face detectors: training one, comparing several, and finding faces."""
