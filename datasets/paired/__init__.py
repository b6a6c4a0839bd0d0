"""Faces at a high and a low resolution: pairs of files, or files and a degradation."""
