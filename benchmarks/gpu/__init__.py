"""What only a GPU can show, in parts of a few minutes each: `make gpu PART=1`."""
