"""`python -m datasets.check`: the program `check` under the name that it began with."""

import sys

from cli.data.check import main
from options.command import launch

PROGRAM = "python -m datasets.check"

if __name__ == "__main__":
    launch(PROGRAM, lambda: main(sys.argv[1:], PROGRAM))
