"""The program that pretrains: its checkpoints, and a run from its options to its end."""
