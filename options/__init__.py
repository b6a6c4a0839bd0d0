"""The options: their sections, how a section becomes flags, and the command line that reads them."""
