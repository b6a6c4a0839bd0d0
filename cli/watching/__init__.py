"""Programs that look at runs while they run."""
