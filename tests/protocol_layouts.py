"""Sets with layouts of their own, small and of noise, written as their publications lay them out."""

import cv2
import numpy as np
from benchmark_sets import draw_images, encode
from scipy.io import savemat

from transforms.landmarks import TEMPLATE


def write_images(root, names, seed=0):
    images = draw_images(len(names), seed)
    for name, image in zip(names, images, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(image))
    return dict(zip(names, images, strict=True))


def write_mlfw(root):
    names = ["Ann_Bo_0001_0001.png", "Ann_Bo_0002_0001.png", "Carl_0001_0003.png", "Carl_0004_0002.png"]
    images = write_images(root / "aligned", names)
    write_images(root / "origin", names, seed=1)
    lines = [
        f"{names[0]} {names[1]} 1",
        f"{names[2]}\t{names[3]}\t1",
        f"{names[0]} {names[2]} 0",
        f"{names[3]} {names[1]} 0",
    ]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    return names, images


def write_tinyface(root):
    probe = ["3_1.png", "3_2.png", "11_1.png"]
    match = ["3_7.png", "11_9.png"]
    write_images(root, [f"Probe/{name}" for name in probe], 1)
    write_images(root, [f"Gallery_Match/{name}" for name in match], 2)
    write_images(root, ["Gallery_Distractor/0_0_a.png", "Gallery_Distractor/more/0_1_b.png"], 3)
    return probe, match


def write_mat(file, kind, names, people):
    cells = np.empty((len(names), 1), dtype=object)
    cells[:, 0] = names
    savemat(file, {f"{kind}_set": cells, f"{kind}_ids": np.array(people)[:, None]})


def write_janus(root, name="ijbc"):
    """Three people, a template of two images and a video frame each and one of a photograph each."""
    templates, medias = [1, 1, 1, 2, 2, 2, 3, 3, 3, 11, 12, 13], [5, 6, 6, 5, 6, 6, 5, 6, 6, 9, 9, 9]
    images = [f"{number}.jpg" for number in range(1, 13)]
    people = {1: 100, 2: 200, 3: 300, 11: 100, 12: 200, 13: 300}
    (root / "meta").mkdir(parents=True)
    (root / "loose_crop").mkdir()
    points = TEMPLATE * 1.5 + 20
    rng = np.random.default_rng(0)
    for image in images:
        face = cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (224, 224))
        (root / "loose_crop" / image).write_bytes(encode(face, ".jpg"))
    meta = root / "meta"
    (meta / f"{name}_face_tid_mid.txt").write_text(
        "".join(f"{i} {t} {m}\n" for i, t, m in zip(images, templates, medias, strict=True))
    )
    numbers = " ".join(f"{value:.3f}" for value in points.ravel())
    (meta / f"{name}_name_5pts_score.txt").write_text("".join(f"{image} {numbers} 0.9\n" for image in images))
    pairs = [(a, b) for a in (1, 2, 3) for b in (11, 12, 13)]
    (meta / f"{name}_template_pair_label.txt").write_text(
        "".join(f"{a} {b} {int(people[a] == people[b])}\n" for a, b in pairs)
    )
    for kind, chosen in (("gallery_G1", [1, 2]), ("gallery_G2", [3]), ("probe_mixed", [11, 12, 13])):
        rows = "".join(f"{template},{people[template]},x.jpg\n" for template in chosen for _ in range(2))
        (meta / f"{name}_1N_{kind}.csv").write_text(f"TEMPLATE_ID,SUBJECT_ID,FILENAME\n{rows}")
    return meta
