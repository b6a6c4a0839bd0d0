"""What looks wrong with a data set; `python -m datasets.check` is the program."""
