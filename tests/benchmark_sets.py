"""Small benchmark sets in the formats of others, written without the readers' help."""

import json
import pickle
import struct

import cv2
import numpy as np


def draw_images(num_images=4, seed=0):
    """Return smooth uint8 [N, 112, 112, 3] RGB images; the first two are black and white."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num_images, 8, 8, 3), dtype=np.uint8)
    images = np.stack([cv2.resize(image, (112, 112), interpolation=cv2.INTER_LINEAR) for image in coarse])
    images[0], images[1] = 0, 255
    return images


def encode(image, suffix=".png"):
    """Return an RGB image as a file's bytes."""
    ok, data = cv2.imencode(suffix, image[..., ::-1])
    assert ok
    return data.tobytes()


def write_bin(file, images, issame, protocol=4):
    file.parent.mkdir(parents=True, exist_ok=True)
    content = ([encode(image) for image in images], [bool(answer) for answer in issame])
    file.write_bytes(pickle.dumps(content, protocol=protocol))


def normalize(images):
    """Return float32 [N, 3, 112, 112] BGR as AdaFace stores it."""
    return (
        images[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255) - np.float32(0.5)
    ) / np.float32(0.5)


def blosc_chunk(values, codec=b"lz4", shuffle=1, level=5):
    from numcodecs import blosc

    return b"blpk" + struct.pack("<Bxxxq", 1, 1) + blosc.compress(np.ascontiguousarray(values), codec, level, shuffle)


def write_bcolz(folder, values, issame, chunk_rows=3, **options):
    """Write rows as bcolz does, and the answers beside the folder."""
    (folder / "data").mkdir(parents=True)
    (folder / "meta").mkdir()
    sizes = {"shape": list(values.shape), "nbytes": values.nbytes, "cbytes": 1}
    storage = {"dtype": str(values.dtype), "cparams": {}, "chunklen": chunk_rows, "expectedlen": 1, "dflt": 0.0}
    (folder / "meta" / "sizes").write_text(json.dumps(sizes) + "\n")
    (folder / "meta" / "storage").write_text(json.dumps(storage) + "\n")
    (folder / "__attrs__").write_text("{}")
    for number, start in enumerate(range(0, len(values), chunk_rows)):
        chunk = blosc_chunk(values[start : start + chunk_rows], **options)
        (folder / "data" / f"__{number}.blp").write_bytes(chunk)
    np.save(folder.with_name(f"{folder.name}_list.npy"), np.array(issame, bool))


def listing(root):
    """Return every path below a folder, hidden ones included."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def assert_one_line(error, *names):
    message = str(error)
    assert "\n" not in message and len(message) < 600, message[:600]
    for name in names:
        assert name in message, message
