"""Speed of what pretraining adds."""
