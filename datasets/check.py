"""`python -m datasets.check`: the program of cli/check.py under the name it began with."""

from cli.check import PROGRAM, main
from options.command import launch

if __name__ == "__main__":
    launch(PROGRAM, main)
