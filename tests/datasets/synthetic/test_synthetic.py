"""Tests of the synthetic data set: layout, reproducibility, disjoint people, pair protocols, and no shortcuts."""

import json
import shutil
from functools import partial

import cv2
import numpy as np
import pytest
import torch

import datasets.synthetic.prepare
import nets
from datasets.benchmarks.benchmark import BENCHMARKS, load_benchmark
from datasets.faces.image_folder import ImageFolderDataset
from datasets.synthetic.prepare import (
    PAIR_KINDS,
    SyntheticSpec,
    pair_nuisances,
    prepare_synthetic,
    render_benchmark,
    render_identities,
    stream_identity,
)

SPEC = SyntheticSpec(num_identities=3, images_per_identity=2, benchmark_pairs=40, seed=5)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return prepare_synthetic(tmp_path_factory.mktemp("cache"), SPEC, jobs=1, progress=False)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fail(*_args):
    raise RuntimeError("rendering stopped")


def test_the_ordinary_readers_read_it(root):
    dataset = ImageFolderDataset(root / "train")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected, labels = render_identities("train", 3, 2, seed=5)
    assert np.array_equal(labels, dataset.labels)
    assert np.array_equal(np.stack([dataset.read(index) for index in range(6)]), expected)
    for name in BENCHMARKS:
        benchmark = load_benchmark(root, name)
        assert benchmark.images.shape == (80, 112, 112, 3) and len(benchmark) == 40
    assert np.array_equal(load_benchmark(root, "cplfw").images, render_benchmark("cplfw", SPEC).images)


def test_folds_are_balanced_and_share_nobody(root):
    for name in BENCHMARKS:
        benchmark = load_benchmark(root, name)
        people = benchmark.identities.reshape(-1, 2)
        assert np.array_equal(benchmark.issame, people[:, 0] == people[:, 1])
        owners = {}
        for fold in range(10):
            inside = benchmark.folds == fold
            assert inside.sum() == 4 and benchmark.issame[inside].sum() == 2
            for person in people[inside].ravel():
                assert owners.setdefault(person, fold) == fold


def test_every_image_is_a_fresh_render(root):
    images = np.concatenate([load_benchmark(root, name).images for name in BENCHMARKS])
    assert len({image.tobytes() for image in images}) == len(images)


def test_streams_share_nobody():
    streams = ["train", *BENCHMARKS, "ablation-dev", "ablation-test"]
    people = {stream_identity(seed, stream, index) for stream in streams for index in range(5) for seed in (0, 1)}
    assert len(people) == len(streams) * 5 * 2


def test_whatever_is_written_says_synthetic(root):
    assert root.name == f"synthetic-{SPEC.digest}"
    assert "ynthetic" in (root / "README.txt").read_text()
    description = json.loads((root / "spec.json").read_text())
    assert description["kind"] == "synthetic" and description["benchmark_pairs"] == 40
    assert all(path.name.startswith("synthetic_") for path in (root / "train").iterdir())


@pytest.mark.slow  # two processes that import for seconds, and all faces drawn twice
def test_the_result_does_not_depend_on_the_number_of_processes(root, tmp_path):
    other = prepare_synthetic(tmp_path, SPEC, jobs=2, progress=False)
    assert contents(other) == contents(root)


def test_a_finished_folder_is_not_rendered_again(root, monkeypatch):
    monkeypatch.setattr(datasets.synthetic.prepare, "_render_all", fail)
    assert prepare_synthetic(root.parent, SPEC, jobs=1, progress=False) == root


def test_a_stopped_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.synthetic.prepare, "encode_face", fail)
    with pytest.raises(RuntimeError, match="rendering stopped"):
        prepare_synthetic(tmp_path, SPEC, jobs=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_faster_of_two_processes_wins(tmp_path, monkeypatch):
    target = tmp_path / f"synthetic-{SPEC.digest}"

    def overtaken(folder, *_args):
        (folder / "slower").touch()
        target.mkdir()
        (target / "faster").touch()

    monkeypatch.setattr(datasets.synthetic.prepare, "_render_all", overtaken)
    assert prepare_synthetic(tmp_path, SPEC, jobs=1, progress=False) == target
    assert [path.name for path in tmp_path.rglob("*")] == [target.name, "faster"]


def test_a_cache_that_cannot_be_written_names_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="MASKWISE_CACHE"):
        prepare_synthetic(tmp_path / "file" / "cache", SPEC, jobs=1, progress=False)


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets.synthetic.prepare, "_render_all", lambda folder, *_args: (folder / "done").touch())
    assert prepare_synthetic(spec=SPEC, progress=False).parent == tmp_path


@pytest.mark.parametrize(
    "numbers",
    [{"num_identities": 1}, {"images_per_identity": 0}, {"seed": -1}, {"benchmark_pairs": 20}, {"benchmark_pairs": 50}],
)
def test_impossible_specs_are_refused(numbers):
    with pytest.raises(ValueError, match=next(iter(numbers))):
        SyntheticSpec(**numbers)


def test_the_digest_follows_the_spec_and_the_renderer(monkeypatch):
    digests = {SyntheticSpec().digest, SyntheticSpec(seed=1).digest, SyntheticSpec(images_per_identity=21).digest}
    monkeypatch.setattr(datasets.synthetic.prepare, "RENDERER_VERSION", -1)
    assert len(digests | {SyntheticSpec().digest}) == 4
    assert SyntheticSpec().digest == SyntheticSpec().digest


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(ValueError, match=r"cplfw, got 'megaface'"):
        render_benchmark("megaface", SPEC)


def drawn_pairs(name):
    rng = np.random.default_rng(0)
    pairs = [pair_nuisances(PAIR_KINDS[name], rng) for _ in range(100)]
    yaws, ages = np.array([[(n.yaw, n.age) for n in pair] for pair in pairs]).transpose(2, 0, 1)
    return yaws, ages


def test_benchmarks_imitate_their_originals():
    assert tuple(PAIR_KINDS) == BENCHMARKS
    yaws, _ = drawn_pairs("cfp_fp")
    sizes = np.sort(np.abs(yaws), axis=1)
    assert sizes[:, 0].max() <= 0.15 and sizes[:, 1].min() >= 0.65
    assert 20 < (np.abs(yaws[:, 0]) > 0.5).sum() < 80  # either image may be the profile
    yaws, _ = drawn_pairs("cplfw")
    assert np.abs(yaws[:, 0] - yaws[:, 1]).min() >= 0.7
    for name, gap in (("agedb_30", 0.5), ("calfw", 0.3)):
        _, ages = drawn_pairs(name)
        assert np.abs(ages[:, 0] - ages[:, 1]).min() >= gap - 1e-9


def accuracy(scores, benchmark):
    """Return the accuracy over ten folds, each with the threshold that is best on the others."""
    correct = 0
    for fold in range(10):
        inside = benchmark.folds == fold
        thresholds = np.append(scores[~inside], -np.inf)
        decisions = scores[~inside][None] > thresholds[:, None]
        best = thresholds[(decisions == benchmark.issame[~inside]).mean(axis=1).argmax()]
        correct += ((scores[inside] > best) == benchmark.issame[inside]).sum()
    return correct / len(scores)


def cosine(features):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return (unit[0::2] * unit[1::2]).sum(axis=1)


@torch.no_grad()
def untrained(images, training):
    torch.manual_seed(0)
    model = nets.build_model("ir_tiny").to(memory_format=torch.channels_last).train(training)
    chunks = torch.from_numpy(images).permute(0, 3, 1, 2).split(100)
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([model(chunk.float() / 127.5 - 1.0).embedding.float() for chunk in chunks]).numpy()


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("cfp_fp", "calfw", "cplfw")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lfw", "agedb_30", *SLOW])
def test_no_shortcut_solves_a_benchmark(name):
    benchmark = render_benchmark(name, SyntheticSpec())
    images = np.asarray(benchmark.images)
    pixels = np.stack([cv2.resize(image, (56, 56), interpolation=cv2.INTER_AREA) for image in images])
    pixels = pixels.reshape(len(images), -1).astype(np.float32)
    colors = images.mean(axis=(1, 2))
    scores = {
        "raw pixels": cosine(pixels),
        "raw pixels about gray": cosine(pixels - 127.5),
        "raw pixels about their mean": cosine(pixels - pixels.mean(axis=1, keepdims=True)),
        "mean color": -np.linalg.norm(colors[0::2] - colors[1::2], axis=1),
        "mean color's hue": cosine(colors),
        "untrained network": cosine(untrained(images, training=False)),
        "untrained network with batch statistics": cosine(untrained(images, training=True)),
    }
    reached = {shortcut: accuracy(values, benchmark) for shortcut, values in scores.items()}
    assert max(reached.values()) <= 0.65, reached


@pytest.mark.parametrize(
    "name", ["train/synthetic_00001/001.jpg", "lfw/images.npy", "calfw/issame.npy", "checksums.json"]
)
@pytest.mark.parametrize("kind", ["flipped", "missing"])
def test_a_damaged_folder_is_noticed_and_rendered_again(root, tmp_path, caplog, name, kind, monkeypatch):
    folder = tmp_path / root.name
    shutil.copytree(root, folder)
    if kind == "missing":
        (folder / name).unlink()
    else:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 16
        (folder / name).write_bytes(data)
    # Rendering is not what is tested.
    copy = partial(shutil.copytree, root, dirs_exist_ok=True)
    monkeypatch.setattr(datasets.synthetic.prepare, "_render_all", lambda to, *_: copy(to))
    assert prepare_synthetic(tmp_path, SPEC, jobs=1, progress=False) == folder
    (message,) = [record.getMessage() for record in caplog.records]
    assert "rendered again" in message and "\n" not in message
    assert contents(folder) == contents(root)
    assert [path.name for path in tmp_path.iterdir()] == [root.name]
    monkeypatch.setattr(datasets.synthetic.prepare, "_render_all", fail)
    prepare_synthetic(tmp_path, SPEC, jobs=1, progress=False)
