"""What is known of the machine and the terminal before anything is imported; standard library only."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]  # of the checkout
