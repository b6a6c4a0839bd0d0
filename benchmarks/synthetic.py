"""Speed of the synthetic faces: images a second on one core, drawing of the parameters and JPEG included.

Run `python -m benchmarks.synthetic`.
"""

from __future__ import annotations

import argparse
import statistics
import time

import cv2

from datasets.synthetic import render_identities

REPEATS = 5
IMAGES_PER_IDENTITY = 20


def images_per_second(num_identities: int) -> float:
    """Return the speed of rendering training images, over processor time: other programs do not count."""
    start = time.process_time()
    images, _ = render_identities("benchmark", num_identities, IMAGES_PER_IDENTITY)
    return len(images) / (time.process_time() - start)


def main() -> None:
    """Print the median of a few runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_identities", type=int, default=15)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    images_per_second(1)
    speeds = [images_per_second(arguments.num_identities) for _ in range(REPEATS)]
    print(f"synthetic faces: {statistics.median(speeds):.0f} images/s on one core (median of {REPEATS}), goal >= 300")


if __name__ == "__main__":
    main()
