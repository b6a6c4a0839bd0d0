"""Runs of any task: how they begin, go on and end; and the tasks beside recognition."""
