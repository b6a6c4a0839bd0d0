"""`python -m datasets.convert`: the program of cli/convert.py under the name it began with."""

from cli.convert import PROGRAM, main
from options.command import launch

if __name__ == "__main__":
    launch(PROGRAM, main)
