"""The diagnosis as JSON, as a table of all images it names, and as text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.counted import counted
from datasets.doctor import alignment, near_duplicates
from datasets.doctor.diagnosis import (
    BLUE_BELOW,
    MAX_BLUE,
    Channels,
    Diagnosis,
    channels_of,
    share_unaligned,
)
from datasets.doctor.duplicates import Pairs
from datasets.faces.image_folder import ImageFolderDataset
from datasets.records.dataset import RecordDataset
from system.files import atomic_write, write_text
from system.terminal import escaped, printable

SCHEMA = "maskwise-check/1"
# Of a list in the JSON; the table holds all.
_MAX_LISTED = 100

Section = dict[str, object]


def to_dict(diagnosis: Diagnosis) -> Section:
    """Return the report: a section a question, the rules they were judged by, and the findings."""
    report: Section = {"schema": SCHEMA}
    if diagnosis.dataset is not None:
        report |= {
            "source": str(diagnosis.dataset.root),
            "kind": "records" if isinstance(diagnosis.dataset, RecordDataset) else "folder",
            "counts": _counts(diagnosis),
            "sizes": _sizes(diagnosis),
            "left_out": _left_out(diagnosis),
            "unreadable": _unreadable(diagnosis),
            "duplicates": _duplicates(diagnosis),
            "shared_with_benchmarks": _shared(diagnosis),
            "channels": _channels(diagnosis.channels),
            "alignment": _alignment(diagnosis),
        }
    report["benchmarks"] = _benchmarks(diagnosis)
    report["findings"] = [finding._asdict() for finding in diagnosis.findings()]
    return report


def table(diagnosis: Diagnosis) -> Iterator[tuple[str, str, str, str]]:
    """Yield (kind, image, other image, detail) for each image or pair that the report counts."""
    dataset, looked, copies = diagnosis.dataset, diagnosis.looked, diagnosis.duplicates
    if dataset is None or looked is None or copies is None:
        return
    for broken in looked.unreadable:
        yield "unreadable", broken.location, "", broken.reason
    for kind, pairs in (("exact_duplicate", copies.exact), ("near_duplicate", copies.near)):
        crosses = diagnosis.crosses(pairs.first, pairs.second)
        for first, second, distance, other in zip(*(v.tolist() for v in (*pairs, crosses)), strict=True):
            detail = f"{distance} bits, {'two identities' if other else 'one identity'}"
            yield kind, str(dataset.paths[first]), str(dataset.paths[second]), detail
    for first, second, distance in _rows(copies.shared):
        yield "in_benchmark", str(dataset.paths[first]), place_in_sets(diagnosis, second), f"{distance} bits"
    assert diagnosis.channels is not None
    for index in diagnosis.channels.clearly_blue.tolist():
        yield "more_blue_than_red", str(dataset.paths[index]), "", f"{-looked.rows['warmth'][index]} levels"
    for index in diagnosis.unaligned.tolist():
        yield "unaligned", str(dataset.paths[index]), "", f"score {looked.alignment[index]:.2f}"


def place_in_sets(diagnosis: Diagnosis, position: int) -> str:
    """Return the benchmark set and the image in it of a position behind those of the data set."""
    assert diagnosis.looked is not None
    position -= len(diagnosis.looked.rows)
    for other in diagnosis.sets:
        if position < len(other.rows):
            return f"{other.benchmark.name}, image {position}"
        position -= len(other.rows)
    raise AssertionError(f"no set holds image {position}")


def write(folder: Path, diagnosis: Diagnosis) -> Section:
    """Write report.json and findings.csv into a folder and return the report."""
    report = to_dict(diagnosis)
    write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")
    with atomic_write(folder / "findings.csv", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("kind", "image", "other", "detail"))
        writer.writerows(map(escaped, row) for row in table(diagnosis))  # a file name may hold anything
    return report


def to_text(diagnosis: Diagnosis) -> str:
    """Return the report in lines for people."""
    lines = [f"benchmark {other.benchmark.name}: {counted(len(other.benchmark), 'pair')}" for other in diagnosis.sets]
    if diagnosis.dataset is not None:
        lines = [*_summary(diagnosis), *lines]
    findings = diagnosis.findings()
    lines += ["", f"{counted(len(findings), 'finding')}:" if findings else "Nothing looks wrong."]
    lines += [f"- {finding.text}" for finding in findings]
    # Names come from the user's disk: none may move the cursor of a terminal.
    return "".join(f"{printable(line)}\n" for line in lines)


def _summary(diagnosis: Diagnosis) -> Iterator[str]:
    dataset, looked, copies, channels = diagnosis.dataset, diagnosis.looked, diagnosis.duplicates, diagnosis.channels
    assert dataset is not None and looked is not None and copies is not None and channels is not None
    counts = np.bincount(dataset.labels)
    yield (
        f"{dataset.root}: {counted(len(dataset), 'image')} of {counted(len(counts), 'identity')}, "
        f"{len(looked.unreadable)} unreadable"
    )
    yield (
        f"images per identity: {counts.min()} to {counts.max()}, median {np.median(counts):g}, "
        f"{counted(int((counts == 1).sum()), 'identity')} with one"
    )
    sizes = [f"{width} x {height} ({num})" for width, height, num in _common_sizes(diagnosis)[:4]]
    yield f"sizes: {', '.join(sizes)}"
    across = int(diagnosis.crosses(copies.near.first, copies.near.second).sum())
    near = counted(len(copies.near.first), "near pair")
    yield f"copies: {len(copies.exact.first)} exact, {near}, {across} of two identities"
    yield (
        f"color: {counted(channels.num_color, 'image')}, {channels.blue:.1%} of them with more blue than red in the "
        "skin"
    )
    yield f"alignment: {looked.check}"
    model = looked.model
    if model is None:
        yield f"places of single images: not judged, {alignment.MIN_SAMPLE} readable images are needed"
    else:
        yield (
            f"places of single images: consistency {model.consistency:.3f}, "
            f"{counted(len(diagnosis.unaligned), 'image')} suspected"
        )


def _counts(diagnosis: Diagnosis) -> Section:
    assert diagnosis.dataset is not None and diagnosis.looked is not None
    counts = np.bincount(diagnosis.dataset.labels)
    return {
        "images": len(diagnosis.dataset),
        "identities": len(counts),
        "unreadable": len(diagnosis.looked.unreadable),
        "images_per_identity": {
            "min": int(counts.min()),
            "median": float(np.median(counts)),
            "mean": float(counts.mean()),
            "max": int(counts.max()),
            "with_one": int((counts == 1).sum()),
        },
    }


def _common_sizes(diagnosis: Diagnosis) -> list[tuple[int, int, int]]:
    """Return width, height and number of each size, the most common first; 0 x 0 where the header does not tell."""
    assert diagnosis.looked is not None
    rows = diagnosis.looked.rows
    packed = rows["size"][rows["readable"]].astype(np.int64) @ np.array([2**16, 1])
    values, numbers = np.unique(packed, return_counts=True)
    order = np.argsort(-numbers, kind="stable")
    return [(int(values[i] >> 16), int(values[i] & 0xFFFF), int(numbers[i])) for i in order]


def _sizes(diagnosis: Diagnosis) -> Section:
    sizes = _common_sizes(diagnosis)
    return {
        "different": len(sizes),
        "not_square": sum(num for width, height, num in sizes if width != height),
        "unknown": sum(num for width, _, num in sizes if not width),
        "most_common": [list(size) for size in sizes[:20]],
    }


def _unreadable(diagnosis: Diagnosis) -> Section:
    assert diagnosis.looked is not None
    listed = [{"image": broken.location, "reason": broken.reason} for broken in diagnosis.looked.unreadable]
    return {"images": len(listed), "first": listed[:_MAX_LISTED]}


def _left_out(diagnosis: Diagnosis) -> list[Section]:
    if not isinstance(diagnosis.dataset, ImageFolderDataset):
        return []
    counts = sorted(diagnosis.dataset.left_out.items())
    return [{"suffix": suffix, "reason": reason, "files": number} for (suffix, reason), number in counts]


def _duplicates(diagnosis: Diagnosis) -> Section:
    copies = diagnosis.duplicates
    assert copies is not None
    return {
        "exact": _pairs(diagnosis, copies.exact),
        "near": _pairs(diagnosis, copies.near) | {"complete": copies.complete},
        "rule": f"exact: equal pixels at 112 x 112; near: at most {near_duplicates.MAX_DISTANCE} of 256 bits of the "
        "perceptual hash differ; of copies each is paired with the first",
    }


def _pairs(diagnosis: Diagnosis, pairs: Pairs) -> Section:
    assert diagnosis.dataset is not None
    paths = diagnosis.dataset.paths
    return {
        "pairs": len(pairs.first),
        "of_two_identities": int(diagnosis.crosses(pairs.first, pairs.second).sum()),
        "first": [
            {"images": [str(paths[first]), str(paths[second])], "bits": distance}
            for first, second, distance in _rows(pairs, _MAX_LISTED)
        ],
    }


def _shared(diagnosis: Diagnosis) -> Section:
    copies, dataset = diagnosis.duplicates, diagnosis.dataset
    assert copies is not None and dataset is not None
    identities = diagnosis.shared_identities()
    return {
        "identities": len(identities),
        "images": len(copies.shared_images),
        "first_identities": identities[:_MAX_LISTED],
        "first": [
            {"image": str(dataset.paths[first]), "benchmark": place_in_sets(diagnosis, second), "bits": distance}
            for first, second, distance in _rows(copies.shared, _MAX_LISTED)
        ],
    }


def _channels(channels: Channels | None) -> Section:
    assert channels is not None
    return {
        "colour_images": channels.num_color,
        "share_with_more_blue": channels.blue,
        "clearly_more_blue": len(channels.clearly_blue),
        "suspected": channels.suspected,
        "rule": f"suspected if more than {MAX_BLUE:.0%} have a median of red - blue below 0 on cheeks and forehead; "
        f"clearly: below {BLUE_BELOW}",
    }


def _alignment(diagnosis: Diagnosis) -> Section:
    assert diagnosis.looked is not None
    check, model = diagnosis.looked.check, diagnosis.looked.model
    section: Section = {
        "judged": check.is_judged,
        "suspect": check.is_suspect,
        "face": check.face,
        "eyes": check.eyes,
        "not_square": check.num_not_square,
        "rule": "docs/data.md; single images: "
        + (
            f"{alignment.MIN_SAMPLE} readable ones are needed"
            if model is None
            else f"consistent if moved copies are told from them in at least {alignment.MIN_CONSISTENCY:.0%}; "
            f"suspected below {alignment.SUSPECT_BELOW} standard deviations"
        ),
    }
    if model is not None:
        section |= {
            "consistency": model.consistency,
            "consistent": model.is_consistent,
            "suspected_images": len(diagnosis.unaligned),
        }
    return section


def _benchmarks(diagnosis: Diagnosis) -> Section:
    sets: Section = {name: {"error": reason} for name, reason in diagnosis.broken.items()}
    judged = diagnosis.looked is not None and diagnosis.looked.model is not None
    for other in diagnosis.sets:
        sets[other.benchmark.name] = {
            "pairs": len(other.benchmark),
            "source": other.benchmark.source,
            "channels": _channels(channels_of(other.rows)),
            "share_unaligned": share_unaligned(other) if judged else None,
        }
    return sets


def _rows(pairs: Pairs, limit: int | None = None) -> Iterator[tuple[int, int, int]]:
    return zip(*(values[:limit].tolist() for values in pairs), strict=True)
