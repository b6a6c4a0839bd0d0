"""Faces described and compared by a folder that `python main.py export` wrote: onnxruntime, numpy and OpenCV alone.

This file is part of that folder, and needs nothing else of where it comes from:

    from runtime import Recognizer, read_image

    recognizer = Recognizer("deploy")
    print(recognizer.verify(read_image(first_bytes), read_image(second_bytes)))

One Recognizer serves many threads, and gives each the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnxruntime

from datasets.faces.image_header import image_size, num_scans
from models.onnx.finding import Face, Finder

FORMAT = "maskwise deploy 1"
MAX_RESIDUAL = 12.0  # pixels of 112 that five points may lie off the template's shape
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM")
_USUAL_FAR = 1e-3
_CROPS = 8


class RefusedError(ValueError):
    """An image or a question that is not answered; its text names no path and may be shown to whoever sent it."""


class Limits(NamedTuple):
    """What is read of an image from outside: bytes of the file, pixels by its header, faces, passes of a JPEG."""

    max_bytes: int = 8 * 2**20
    max_pixels: int = 2**24  # 4096 x 4096
    max_faces: int = 100
    max_scans: int = 100  # encoders write 10; each goes over all pixels, and takes a few bytes


class Described(NamedTuple):
    """Of B faces: unit embeddings [B, D], norms [B, 1], local maps [B, 2, C, h, w] and visibilities [B, 2, 1, h, w].

    Maps and visibilities are those of the image and of its mirror image; visibilities may be None.
    """

    embedding: np.ndarray
    norm: np.ndarray
    maps: np.ndarray
    visibility: np.ndarray | None


USUAL = Limits()


def read_image(data: bytes, limits: Limits = USUAL) -> np.ndarray:
    """Return a JPEG, PNG, WebP or BMP as uint8 [H, W, 3] RGB, turned as its orientation tag says.

    Raises:
        RefusedError: if it is too large, by its header before anything is decoded, or no such image.
    """
    if len(data) > limits.max_bytes:
        raise RefusedError(f"the image has more than {limits.max_bytes} bytes")
    if not data.startswith(_SIGNATURES):
        raise RefusedError("not an image: JPEG, PNG, WebP and BMP are read")
    size = image_size(data)
    if size is None:
        raise RefusedError("the image cannot be read: its header does not tell its size")
    if size[0] * size[1] > limits.max_pixels:
        raise RefusedError(f"the image has {size[0]} x {size[1]} pixels, more than {limits.max_pixels}")
    if num_scans(data) > limits.max_scans:
        raise RefusedError(f"the image has more than {limits.max_scans} scans")
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        decoded = None
    if decoded is None:
        raise RefusedError("the image cannot be decoded")
    return np.ascontiguousarray(decoded[..., ::-1])


class Recognizer:
    """Model, matcher and detector of a folder, whichever are there.

    Args:
        folder: as `python main.py export` wrote it.
        num_threads: of one operator.
    Raises:
        ValueError: if a file is not the one that was written. OSError: if one is missing.
    """

    def __init__(self, folder: str | Path, num_threads: int = 1) -> None:
        self._folder = Path(folder)
        self.facts: dict[str, Any] = json.loads((self._folder / "deploy.json").read_text(encoding="utf-8"))
        if self.facts.get("format") != FORMAT:
            raise ValueError(f"{folder}: deploy.json is not of the format {FORMAT!r}")
        for name, known in self.facts["files"].items():
            with (self._folder / name).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != known["sha256"]:
                    raise ValueError(f"{folder}: {name} is not the file that was exported")
        self._threads = num_threads
        self._model = self._open("model.onnx")
        self._matcher: Any = self._open("matcher.onnx") if self.facts["matcher"] else None
        self.finder = None if self.facts["detector"] is None else self._open_finder(**self.facts["detector"])
        self._template = np.array(self.facts["template"], np.float64)

    # ---------------------------------------------------------------- photographs

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces of a photograph uint8 [H, W, 3] RGB, the surest first.

        Raises:
            RefusedError: if the folder has no detector.
        """
        if self.finder is None:
            raise RefusedError("there is no detector: give aligned faces, or five points of each")
        return self.finder.find(image)

    def align(self, image: np.ndarray, points: Any) -> np.ndarray:
        """Return the crop uint8 [112, 112, 3] that brings five points [5, 2] nearest to the template.

        Least squares over the five points (Umeyama, PAMI 1991): a rotation, a scale and a shift, never a mirror image.

        Raises:
            RefusedError: if the points are no face's.
        """
        given = np.asarray(points, np.float64)
        if given.shape != (5, 2) or not np.isfinite(given).all():
            raise RefusedError("five points, x and y of each, are needed")
        source, target = (((p - p.mean(0)) @ [1, 1j]) for p in (given, self._template))
        spread = float(np.vdot(source, source).real)
        factor = np.vdot(source, target) / spread if spread > 1e-12 else 0j
        rotation = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
        matrix = np.column_stack([rotation, self._template.mean(0) - rotation @ given.mean(0)])
        off = given @ rotation.T + matrix[:, 2] - self._template
        if not 0.05 <= abs(factor) <= 5 or math.sqrt((off**2).sum(1).mean()) > MAX_RESIDUAL:
            raise RefusedError("the five points are not those of a face")
        if (given < -0.5).any() or (given > [image.shape[1] - 0.5, image.shape[0] - 0.5]).any():
            raise RefusedError("the face is cut by the border: not all of its five points are there")
        return cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)

    def crop(self, image: np.ndarray, points: Any = None) -> tuple[np.ndarray, int]:
        """Return the crop of a photograph's face, and how many faces it shows; the large one near the center is taken.

        Args:
            image: uint8 [H, W, 3] RGB. Without a detector and without points: an aligned face, 112 x 112.
            points: [5, 2], where they are known.
        Raises:
            RefusedError: if there is no face.
        """
        if points is not None:
            return self.align(image, points), 1
        if self.finder is None and image.shape == (112, 112, 3):
            return image, 1
        found = self.detect(image)
        if not found:
            raise RefusedError("no face is found")
        center = np.array([image.shape[1], image.shape[0]]) / 2

        def weight(face: Face) -> float:
            distance = (face.box[:2] + face.box[2:]) / 2 - center
            return float(np.prod(face.box[2:] - face.box[:2]) - 2 * distance @ distance)

        return self.align(image, max(found, key=weight).points), len(found)

    # ---------------------------------------------------------------- faces

    def faces(self, image: np.ndarray, max_faces: int = USUAL.max_faces) -> list[dict[str, Any]]:
        """Return what is known of each face of a photograph uint8 [H, W, 3] RGB, the surest first.

        Returns:
            Of at most `max_faces`: box [4], score and landmarks [5, 2] (None of an aligned crop in a folder without a
            detector), embedding [D], norm, and visibility, the visible share (None where the model does not tell).
        Raises:
            RefusedError: if there is no detector, and the image is no crop.
        """
        if self.finder is None and image.shape == (112, 112, 3):
            return self._as_answers(np.asarray([image]), [{"box": None, "score": None, "landmarks": None}])
        crops, places = [], []
        for face in self.detect(image)[:max_faces]:
            try:
                crops.append(self.align(image, face.points))
            except RefusedError:
                continue
            box, points = (np.round(each, 2).tolist() for each in (face.box, face.points))
            places.append({"box": box, "score": face.score, "landmarks": points})
        rows = range(0, len(crops), _CROPS)  # few at a time: onnxruntime keeps what its largest batch took
        return [
            one for at in rows for one in self._as_answers(np.stack(crops[at : at + _CROPS]), places[at : at + _CROPS])
        ]

    def embed(self, crops: np.ndarray) -> Described:
        """Return the descriptions of crops uint8 [B, 112, 112, 3] RGB, each with its mirror image."""
        pixels = np.ascontiguousarray(crops)
        if pixels.ndim != 4 or pixels.shape[1:] != (112, 112, 3) or pixels.dtype != np.uint8 or not len(pixels):
            raise RefusedError("crops must be uint8 [B, 112, 112, 3]")
        if self.facts["flip"]:
            return self._described(self._run(pixels))
        views = [self._run(each) for each in (pixels, pixels[:, :, ::-1])]
        features = sum(found["embedding"] * found["norm"] for found in views)
        fused = {
            "embedding": features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12),
            "norm": sum(found["norm"] for found in views) / 2,
        }
        of_both = {name: np.stack([found[name] for found in views], 1) for name in views[0] if name not in fused}
        return self._described({**fused, **of_both})

    def scores(self, a: Described, b: Described) -> dict[str, float]:
        """Return every score of one face with another, B = 1 each, as the evaluation gives them.

        "adaface": of the embeddings; with a matcher "qaconv"; "fused" of both. Where the model knows what scores mean
        at what can be seen of the faces, all are normalized by it.
        """
        raw = {"adaface": float(a.embedding[0] @ b.embedding[0])}
        if self._matcher is not None:
            raw["qaconv"] = float(np.mean([self._matched(a, b, view) for view in (0, 1)]))
        normalization, fusion = self.facts["normalization"], self.facts["fusion"]
        if normalization is not None and a.visibility is not None and set(raw) <= set(normalization["mean"]):
            assert b.visibility is not None
            return _normalized(raw, a.visibility[0].ravel(), b.visibility[0].ravel(), normalization)
        if fusion is not None and set(fusion["weights"]) == set(raw):
            parts = [
                fusion["weights"][n] * (raw[n] - fusion["mean"][n]) / fusion["std"][n] for n in raw if fusion["std"][n]
            ]
            raw["fused"] = sum(parts)
        return raw

    def verify(
        self,
        first: np.ndarray,
        second: np.ndarray,
        far: float | None = None,
        score: str | None = None,
        points: Sequence[Any] = (None, None),
    ) -> dict[str, Any]:
        """Say whether two photographs show one person.

        Args:
            first, second: uint8 [H, W, 3] RGB; see `crop`.
            far: false-accept rate of the threshold; None: of those calibrated the nearest to 1e-3.
            score: "fused", "adaface" or "qaconv"; None: fused where there is one.
            points: five points of either, where they are known.
        Returns:
            verified (None where nothing is calibrated), score, threshold, far, method, faces (found in either), scores.
        Raises:
            RefusedError: if a face cannot be found, or there is no such score or rate.
        """
        cut = [self.crop(image, five) for image, five in zip((first, second), points, strict=True)]
        a, b = (self.embed(crop[None]) for crop, _ in cut)
        found = self.scores(a, b)
        method = score or ("fused" if "fused" in found else "adaface")
        if method not in found:
            raise RefusedError(f"no such score; there are {', '.join(found)}")
        point = self._point(method, far, (a, b))
        answer = {"score": found[method], "method": method, "faces": [num for _, num in cut], "scores": found}
        if point is None:
            return {"verified": None, "threshold": None, "far": None, **answer}
        is_same = found[method] >= point["threshold"]
        return {"verified": is_same, "threshold": point["threshold"], "far": point["far"], **answer}

    # ---------------------------------------------------------------- within

    def _open(self, name: str) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        return onnxruntime.InferenceSession(str(self._folder / name), options, providers=["CPUExecutionProvider"])

    def _open_finder(self, kind: str, threshold: float, min_sizes: Sequence[Sequence[float]]) -> Finder:
        file = self._folder / "detector.onnx"
        return Finder(str(file) if kind == "yunet" else self._open(file.name), threshold, min_sizes)

    def _run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        facts = self.facts["input"]
        given = pixels[..., ::-1] if facts["color_order"] == "bgr" else pixels
        if facts["dtype"] != "uint8":
            scaled = given.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
            given = (scaled - np.float32(0.5)) / np.float32(0.5)
        found = self._model.run(None, {"images": np.ascontiguousarray(given)})
        return dict(zip(self.facts["outputs"], found, strict=True))

    def _as_answers(self, crops: np.ndarray, places: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = self.embed(crops)
        seen = None if found.visibility is None else found.visibility[:, 0].mean((1, 2, 3)).tolist()
        said = zip(
            places, found.embedding.tolist(), found.norm[:, 0].tolist(), seen or [None] * len(crops), strict=True
        )
        return [{**place, "embedding": e, "norm": n, "visibility": v} for place, e, n, v in said]

    def _described(self, found: dict[str, np.ndarray]) -> Described:
        return Described(found["embedding"], found["norm"], found["feature_map"], found.get("visibility"))

    def _matched(self, a: Described, b: Described, view: int) -> float:
        given = {"probe_map": a.maps[:, view], "gallery_map": b.maps[:, view]}
        if a.visibility is not None and b.visibility is not None:
            given |= {"probe_visibility": a.visibility[:, view], "gallery_visibility": b.visibility[:, view]}
        found = self._matcher.run(None, {name: np.ascontiguousarray(each) for name, each in given.items()})
        return float(found[0][0, 0])

    def _point(self, method: str, far: float | None, pair: tuple[Described, Described]) -> dict[str, Any] | None:
        """Return the threshold of a score, for faces as much hidden as these."""
        calibration = self.facts["calibration"]
        if calibration is None:
            if far is not None:
                raise RefusedError("no thresholds are known")
            return None
        below = calibration["covered_below"]
        shares = [float(each.visibility[0, 0].mean()) for each in pair if each.visibility is not None]
        condition = "masked" if below is not None and any(share < below for share in shares) else "clean"
        points = [p for p in calibration["points"] if (p["score"], p["condition"]) == (method, condition)]
        if far is None and points:
            return min(points, key=lambda point: abs(math.log(point["far"] / _USUAL_FAR)))
        for point in points:
            if far is not None and math.isclose(point["far"], far):
                return point
        known = ", ".join(f"{point['far']:g}" for point in points)
        raise RefusedError(f"no threshold of {method} for this rate; there are {known or 'none'}")


def _normalized(raw: dict[str, float], a: np.ndarray, b: np.ndarray, of: dict[str, Any]) -> dict[str, float]:
    """Return scores as distances from impostors' mean at what can be seen, in their spreads, and the sum of both."""
    seen, both = of["least"]
    hidden = [1 - max(seen, float(each.mean())) for each in (a, b)]
    none_sees = 1 - max(both, float((a * b).mean()))
    terms = np.array([1, sum(hidden), math.prod(hidden), hidden[0] ** 2 + hidden[1] ** 2, none_sees, none_sees**2])
    terms = (terms - of["center"]) / of["scale"]
    found = {n: float((v - terms @ of["mean"][n]) * np.exp(-terms @ of["log_std"][n])) for n, v in raw.items()}
    if len(found) == 2:
        one, two = of["weights"].values()
        correlation = float(np.clip(terms @ of["correlation"], -0.5, 0.98))
        spread = math.sqrt(one**2 + two**2 + 2 * one * two * correlation)
        found["fused"] = sum(of["weights"][name] * found[name] for name in of["weights"]) / (spread or 1.0)
    return found
