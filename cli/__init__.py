"""The programs: a table of them, and one file for what each does."""
