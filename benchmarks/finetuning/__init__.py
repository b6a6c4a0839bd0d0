"""What fine-tuning costs: small networks, and what is trained of them."""
