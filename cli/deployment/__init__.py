"""Programs that take a model out of the laboratory."""
