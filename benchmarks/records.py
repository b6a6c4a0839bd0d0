"""A simulated record file at the scale of MS1MV2, and what opening it costs a process.

Its images are a few bytes each, in InsightFace's layout. Anonymous memory is what a process cannot share or give back
(RssAnon, Linux only).
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.sampler import long_tailed_labels
from datasets.records.dataset import RecordDataset
from datasets.records.format import HEADER_BYTES, MAGIC, PART_BYTES

PAYLOAD_BYTES = 8
RECORD = np.dtype(
    [
        ("magic", "<u4"),
        ("length", "<u4"),
        ("flag", "<u4"),
        ("label", "<f4"),
        ("id", "<u8"),
        ("id2", "<u8"),
        ("payload", "S8"),
    ]
)


def write_simulated(folder: Path, num_images: int, num_identities: int) -> None:
    """Write train.rec and train.idx: records of one size, whether they hold a payload or two labels."""
    labels = long_tailed_labels(num_images, num_identities)
    starts = np.append(np.flatnonzero(np.diff(labels, prepend=-1)), num_images) + 1
    num_records = 1 + num_images + num_identities
    records = np.zeros(num_records, RECORD)
    records["magic"], records["length"] = MAGIC, HEADER_BYTES + PAYLOAD_BYTES
    records["id"] = np.arange(num_records)
    images = records[1 : num_images + 1]
    images["label"], images["payload"] = labels, b"tinyface"
    pairs = np.concatenate([[[num_images + 1, num_records]], np.stack([starts[:-1], starts[1:]], axis=1)])
    for rows, bounds in ((records[:1], pairs[:1]), (records[num_images + 1 :], pairs[1:])):
        rows["flag"] = 2
        rows["payload"] = np.frombuffer(bounds.astype("<f4").tobytes(), "S8")
    records.tofile(folder / "train.rec")
    with (folder / "train.idx").open("w") as index:
        for key in range(num_records):
            index.write(f"{key}\t{key * RECORD.itemsize}\n")


def keep_images_only(index: Path, num_images: int) -> None:
    """Leave the header record and the identity records out of an index."""
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[1 : num_images + 1]))


def plain_loop(folder: Path, num_images: int) -> float:
    """Return the seconds of the usual loop: every line of the index, every header read and unpacked."""
    start = time.perf_counter()
    with (folder / "train.idx").open() as index:
        lines = [line.strip().split("\t") for _, line in zip(range(num_images + 1), index, strict=False)]
    offsets = {int(key): int(offset) for key, offset in lines}
    labels = []
    with (folder / "train.rec").open("rb") as records:
        for key in range(1, num_images + 1):
            records.seek(offsets[key] + PART_BYTES)
            labels.append(int(struct.unpack("<IfQQ", records.read(HEADER_BYTES))[1]))
    assert len(labels) == num_images
    return time.perf_counter() - start


def anonymous_mib() -> float:
    """Return the anonymous memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def watch(action: Callable[[], object]) -> dict[str, float]:
    """Return seconds and processor seconds of an action, and the peak of the anonymous memory, seen every 5 ms."""
    peak, done = anonymous_mib(), threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, anonymous_mib())

    thread = threading.Thread(target=look)
    thread.start()
    start, cpu_start = time.perf_counter(), time.process_time()
    action()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    done.set()
    thread.join()
    return {"seconds": seconds, "cpu": cpu, "peak": peak}


def measure_opening(folder: Path) -> None:
    """Open the file in this process and print the figures as JSON."""
    opened: list[RecordDataset] = []
    before = anonymous_mib()
    figures = watch(lambda: opened.append(RecordDataset(folder)))
    print(json.dumps({**figures, "before": before, "after": anonymous_mib(), "images": len(opened[0])}))


def open_in_process(folder: Path) -> dict[str, float]:
    """Return the figures of one opening in a new process."""
    command = [sys.executable, "-m", "benchmarks.records", str(folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    measure_opening(Path(sys.argv[1]))
