"""Speed of what fine-tuning adds."""
