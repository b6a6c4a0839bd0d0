"""Photographs as cameras make them: faces found, aligned to the template, and a table of what became of each."""
