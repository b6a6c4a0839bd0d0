"""Makers of templates and pictures."""
