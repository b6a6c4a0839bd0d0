"""The embedded synthetic faces: training identities and five benchmarks, rendered once into the cache.

Nothing here comes from a real person; whatever reports on these sets says "synthetic".
"""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.benchmarks.benchmark import Benchmark, save_benchmark
from datasets.benchmarks.cache import cache_folder
from datasets.checksums import verify, write_checksums
from datasets.progress import tracked
from datasets.synthetic.canvas import Image
from datasets.synthetic.parameters import FaceIdentity, Nuisance, Range, sample_identity, sample_nuisance
from datasets.synthetic.renderer import RENDERER_VERSION, encode_face, render_face
from system.cores import usable_cores
from system.memory import gigabytes

logger = logging.getLogger(__name__)

NUM_FOLDS = 10
_LEAST_BYTES = 3000  # of an image on the disk, on average

README = """Synthetic faces drawn by maskwise (datasets/synthetic/renderer.py). They show nobody.
train/<identity>/<image>.jpg; lfw, cfp_fp, agedb_30, calfw and cplfw are synthetic imitations of the protocols of that
name, not those data sets: a number measured here is comparable with none measured on the originals.
"""


class PairKind(NamedTuple):
    """How the two images of a benchmark's pairs differ: ranges of |yaw| in radians and of age in [0, 1]."""

    first_yaw: Range
    second_yaw: Range
    first_age: Range
    second_age: Range
    opposite: bool = False


PAIR_KINDS = {
    "lfw": PairKind((0.0, 0.65), (0.0, 0.65), (0.1, 0.8), (0.1, 0.8)),
    "cfp_fp": PairKind((0.0, 0.15), (0.65, 1.0), (0.1, 0.8), (0.1, 0.8)),
    "agedb_30": PairKind((0.0, 0.6), (0.0, 0.6), (0.0, 0.25), (0.75, 1.0)),
    "calfw": PairKind((0.0, 0.6), (0.0, 0.6), (0.05, 0.35), (0.65, 0.95)),
    "cplfw": PairKind((0.35, 0.8), (0.35, 0.8), (0.1, 0.8), (0.1, 0.8), opposite=True),
}


@dataclass(frozen=True)
class SyntheticSpec:
    """What is rendered; equal specs (and renderers) share one folder of the cache.

    Attributes:
        num_identities: of the training set, >= 2.
        images_per_identity: of the training set, >= 1.
        benchmark_pairs: pairs of each of the five benchmarks, half of them genuine; a multiple of 20, >= 40.
        seed: of everything, >= 0.
    Raises:
        ValueError: if a number is out of its range.
    """

    num_identities: int = 200
    images_per_identity: int = 20
    benchmark_pairs: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_identities < 2 or self.images_per_identity < 1 or self.seed < 0:
            raise ValueError(
                f"SyntheticSpec: num_identities must be >= 2, images_per_identity >= 1 and seed >= 0, got {self}"
            )
        if self.benchmark_pairs < 40 or self.benchmark_pairs % 20:
            raise ValueError(
                f"SyntheticSpec: benchmark_pairs must be a multiple of 20 and at least 40 ({NUM_FOLDS} folds, half of "
                f"each genuine), got {self.benchmark_pairs}"
            )

    @property
    def digest(self) -> str:
        """Name of this content: 12 hex digits of the spec and the renderer's version."""
        content = json.dumps({"renderer": RENDERER_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def stream_rng(seed: int, stream: str, *key: int) -> np.random.Generator:
    """Return the generator of one thing; streams of different names never meet."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode()), *key])


def stream_identity(seed: int, stream: str, index: int) -> FaceIdentity:
    """Return person `index` of a stream; "train" and the benchmarks' names are streams too, and none share a person."""
    return sample_identity(stream_rng(seed, stream, index, 0))


def _stream_images(seed: int, stream: str, index: int, num: int) -> Iterator[tuple[FaceIdentity, Nuisance]]:
    """Yield person and nuisance of each of the person's images."""
    identity = stream_identity(seed, stream, index)
    for image in range(num):
        yield identity, sample_nuisance(stream_rng(seed, stream, index, 1, image))


def render_identities(stream: str, num: int, per_identity: int, seed: int = 0) -> tuple[Image, NDArray[np.int64]]:
    """Render images of new people, as the training set has them.

    Args:
        stream: name of the group of people, such as "ablation-test"; people of different streams differ.
        num: people.
        per_identity: images of each.
        seed: as in SyntheticSpec.
    Returns:
        (images uint8 [num * per_identity, 112, 112, 3] RGB, labels int64 of the same length, in blocks of a person).
    """
    faces = [face for index in range(num) for face in _stream_images(seed, stream, index, per_identity)]
    return np.stack([render_face(*face) for face in faces]), np.repeat(np.arange(num), per_identity)


def pair_nuisances(kind: PairKind, rng: np.random.Generator) -> tuple[Nuisance, Nuisance]:
    """Return what tells the two images of a pair apart besides the person, in random order."""
    first = sample_nuisance(rng, kind.first_yaw, kind.first_age)
    second = sample_nuisance(rng, kind.second_yaw, kind.second_age)
    if kind.opposite:
        second = replace(second, yaw=-float(np.copysign(second.yaw, first.yaw)))
    return (first, second) if rng.random() < 0.5 else (second, first)


def _fold_identities(num_pairs: int, fold: int) -> NDArray[np.int64]:
    """Return the people [num_pairs, 2] of a fold's pairs: each once with itself, then each with the next one."""
    num = num_pairs // 2
    people = fold * num + np.arange(num)
    return np.concatenate([np.column_stack([people, people]), np.column_stack([people, np.roll(people, -1)])])


def _render_fold(spec: SyntheticSpec, name: str, fold: int) -> Image:
    """Return a fold's images, uint8 [2 * pairs, 112, 112, 3]."""
    identities = _fold_identities(spec.benchmark_pairs // NUM_FOLDS, fold)
    images = []
    for pair, people in enumerate(identities.tolist()):
        nuisances = pair_nuisances(PAIR_KINDS[name], stream_rng(spec.seed, name, fold, 2, pair))
        for person, nuisance in zip(people, nuisances, strict=True):
            images.append(render_face(stream_identity(spec.seed, name, person), nuisance))
    return np.stack(images)


def _assemble(name: str, folds: list[Image]) -> Benchmark:
    """Return the benchmark of its folds' images, in order."""
    num_pairs = len(folds[0]) // 2
    identities = np.concatenate([_fold_identities(num_pairs, fold) for fold in range(NUM_FOLDS)])
    issame = identities[:, 0] == identities[:, 1]
    return Benchmark(
        np.concatenate(folds), issame, name, np.repeat(np.arange(NUM_FOLDS), num_pairs), identities.ravel()
    )


def render_benchmark(name: str, spec: SyntheticSpec) -> Benchmark:
    """Render one of the five benchmarks: NUM_FOLDS folds that share no person, half of each fold genuine.

    Raises:
        ValueError: if the name is none of PAIR_KINDS.
    """
    if name not in PAIR_KINDS:
        raise ValueError(f"render_benchmark: the synthetic benchmarks are {', '.join(PAIR_KINDS)}, got {name!r}")
    return _assemble(name, [_render_fold(spec, name, fold) for fold in range(NUM_FOLDS)])


def _write_identity(spec: SyntheticSpec, folder: Path, index: int) -> None:
    """Write one training identity's images."""
    person = folder / f"synthetic_{index:05d}"
    person.mkdir(parents=True)
    for image, (identity, nuisance) in enumerate(_stream_images(spec.seed, "train", index, spec.images_per_identity)):
        with (person / f"{image:03d}.jpg").open("wb") as file:
            file.write(encode_face(identity, nuisance))
            file.flush()
            os.fsync(file.fileno())


Task = partial[None] | partial[Image]


def _run(task: Task) -> Image | None:
    return task()


@contextmanager
def _results(tasks: list[Task], jobs: int) -> Iterator[Iterable[Image | None]]:
    """Give the tasks' results in order, computed here or by `jobs` fresh processes."""
    if jobs == 1:
        yield map(_run, tasks)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool.map(_run, tasks, chunksize=4)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _render_all(folder: Path, spec: SyntheticSpec, jobs: int, progress: bool) -> None:
    """Write training set, benchmarks and description into an empty folder."""
    tasks: list[Task] = [
        partial(_write_identity, spec, folder / "train", index) for index in range(spec.num_identities)
    ]
    tasks += [partial(_render_fold, spec, name, fold) for name in PAIR_KINDS for fold in range(NUM_FOLDS)]
    with _results(tasks, jobs) as results:
        shown = tracked(results, "Rendering synthetic faces", len(tasks), hidden=not progress, transient=True)
        folds = [result for result in shown if result is not None]
    for number, name in enumerate(PAIR_KINDS):
        save_benchmark(_assemble(name, folds[number * NUM_FOLDS : (number + 1) * NUM_FOLDS]), folder)
    (folder / "README.txt").write_text(README, encoding="utf-8")
    description = {"kind": "synthetic", "renderer_version": RENDERER_VERSION, **asdict(spec)}
    (folder / "spec.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    write_checksums(folder)


def prepare_synthetic(
    root: Path | None = None, spec: SyntheticSpec | None = None, jobs: int | None = None, progress: bool = True
) -> Path:
    """Return the folder with the spec's faces, rendering them first where the cache does not hold them.

    The folder `<root>/synthetic-<digest>` holds train/<identity>/<image>.jpg, the five benchmarks in our own layout,
    README.txt, spec.json and checksums.json. It appears complete or not at all; of two processes that race, one's copy
    stays. One that is damaged is rendered again, which a warning says.

    Args:
        root: the cache; None is `cache_folder()`.
        spec: what to render; None is the default SyntheticSpec.
        jobs: processes, None for one a core. The result does not depend on it.
        progress: whether to show a progress bar.
    Raises:
        OSError: if the cache cannot be written.
        ValueError: if the disk has no room for so many.
    """
    spec = spec or SyntheticSpec()
    images = spec.num_identities * spec.images_per_identity
    number = f"{spec.num_identities} identities of {spec.images_per_identity} images"
    room = Room(images * _LEAST_BYTES, number)
    return cached_set(
        root or cache_folder(),
        f"synthetic-{spec.digest}",
        lambda folder: _render_all(folder, spec, jobs or usable_cores(), progress),
        room,
    )


class Room(NamedTuple):
    """What a set needs on the disk at least, in bytes, and what it is, in words."""

    least_bytes: int
    words: str


def cached_set(cache: Path, name: str, render: Callable[[Path], None], room: Room) -> Path:
    """Return `<cache>/<name>`, rendering what it holds first where the cache does not hold it.

    The folder appears complete or not at all; of two processes that race, one's copy stays. One that is damaged is
    rendered again, which a warning says.

    Args:
        cache: made where it does not exist.
        name: of the folder, different for different content.
        render: writes everything into an empty folder, checksums included.
        room: what it needs.
    Raises:
        OSError: if the cache cannot be written.
        ValueError: if the disk has no room.
    """
    target = cache / name
    damage = _damage(target) if target.is_dir() else None
    if damage is not None:
        logger.warning("%s; the synthetic faces are rendered again", damage)
    elif target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _check_room(cache, room)
        temporary = Path(tempfile.mkdtemp(prefix=".synthetic-", dir=cache))
    except OSError as error:
        remedy = "cannot write the synthetic faces here; set MASKWISE_CACHE to a folder that can be written"
        raise OSError(error.errno, remedy, str(cache)) from error
    try:
        complete = temporary / target.name
        complete.mkdir()
        render(complete)
        if damage is not None and target.is_dir() and _damage(target):  # not yet replaced by another process
            target.rename(temporary / "damaged")
        _publish(complete, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _damage(target: Path) -> str | None:
    """Return what is wrong with a folder of faces, None if nothing is; one of an older version has no checksums."""
    try:
        verify(target)
    except ValueError as error:
        return str(error)
    return None


def _check_room(cache: Path, room: Room) -> None:
    free = shutil.disk_usage(cache).free
    if room.least_bytes > free:
        raise ValueError(
            f"synthetic faces: {room.words} need at least {gigabytes(room.least_bytes)} in {cache}, where"
            f" {gigabytes(free)} are free; ask for fewer, or set MASKWISE_CACHE to a larger disk"
        )


def _publish(complete: Path, target: Path) -> None:
    """Give the finished folder its name, unless another process was faster."""
    try:
        complete.rename(target)
    except OSError:
        if not target.is_dir():
            raise
