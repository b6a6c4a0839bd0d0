"""Words of the command line that say more than one thing: how they are written and read."""
