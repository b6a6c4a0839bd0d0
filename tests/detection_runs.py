"""Trainings of detectors inside the test process: their flags, and photographs of bright squares."""

import cv2
import numpy as np

SMALL = [
    *("--arch", "retinaface_mnet025", "--image_size", "64", "--val_size", "96", "--batch_size", "4", "--epochs", "2"),
    *("--gpus", "0", "--num_workers", "0", "--log_every_n_steps", "1", "--heartbeat_seconds", "0", "--threads", "1"),
]
POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
SIDE = 96


def write_photos(root, number=16):
    """Write photographs of 96 x 96 with one or two squares as faces, and RetinaFace's label.txt; return its path."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    lines = []
    for index in range(number):
        image = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
        lines.append(f"# images/{index:02d}.png")
        for row in range(1 + index % 2):
            size = int(rng.integers(18, 40))
            x, y = (int(value) for value in rng.integers(0, [SIDE - size, 48 - size // 2]))
            y += row * 40
            image[y : y + size, x : x + size] = rng.integers(150, 255, 3)
            marks = " ".join(f"{px:.2f} {py:.2f} 0" for px, py in POINTS * size + (x, y))
            lines.append(f"{x} {y} {size} {min(size, SIDE - y)} {marks} 0.9")
        cv2.imwrite(str(root / f"images/{index:02d}.png"), image)
    (root / "label.txt").write_text("\n".join(lines) + "\n")
    return root / "label.txt"


def data_flags(root):
    """Return the flags that train and validate on the photographs in a folder."""
    return ["--data_root", str(root), "--labels", str(root / "label.txt"), "--val_labels", str(root / "label.txt")]
