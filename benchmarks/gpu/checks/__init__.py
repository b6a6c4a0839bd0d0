"""What is checked on a GPU: numbers against the CPU, updates, ranks, networks, programs."""
