"""`python -m datasets.convert`: the program `convert` under the name that it began with."""

import sys

from cli.data.convert import main
from options.command import launch

PROGRAM = "python -m datasets.convert"

if __name__ == "__main__":
    launch(PROGRAM, lambda: main(sys.argv[1:], PROGRAM))
