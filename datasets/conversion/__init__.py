"""Conversions between the formats of data sets; `python -m datasets.convert` is their program."""
