"""What studies of many runs share: which runs have ended, intervals over people and seeds, tables of them."""
