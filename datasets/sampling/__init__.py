"""Which images go into which batch: the plan of a whole epoch at once."""
