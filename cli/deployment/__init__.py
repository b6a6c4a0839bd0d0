"""Programs that hand a model to others, and check it first."""
