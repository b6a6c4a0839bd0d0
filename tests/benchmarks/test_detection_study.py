"""What `make detect-demo` compares a trained detector with."""

import pytest
import torch

import nets
from benchmarks.detection import __main__ as study
from cli.detection import evaluate


def finished_run(root, **config):
    folder = root / "demo_11-29_0"
    folder.mkdir()
    saved = {"config": {"epochs": 1, "seed": 7, **config}, "min_sizes": [[8, 16], [32, 64], [128, 256]], "steps": [8]}
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 1}}}}
    torch.save({"state_dict": {}, "hyper_parameters": saved, "loops": loops}, folder / "last.ckpt")
    return folder


def test_a_trained_detector_stands_beside_itself_untrained_and_detectors_of_real_faces(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluate, "evaluate", lambda *words: asked.append(words) or {})
    folder = finished_run(tmp_path, arch="featherface_v2")
    assert study.compare(tmp_path, "demo", 9) == (folder / "comparison", {})
    (options, output) = asked[0]
    names = [word.partition("=")[0] for word in options.detectors]
    assert names == ["trained", "untrained", "MTCNN"] and output == folder / "comparison"
    assert (options.photos, options.num_resamples, options.output_dir) == (None, 9, str(output))
    path = folder / "untrained.ckpt"
    assert options.detectors[1] == f"untrained={path}"
    torch.manual_seed(7)
    drawn = nets.build_detector("featherface_v2").state_dict()
    read = nets.load_detector(path).state_dict()
    assert drawn.keys() == read.keys() and all(torch.equal(drawn[name], read[name]) for name in drawn)
    assert nets.read_state_dict(path).metadata["hyper_parameters"]["min_sizes"] == [[8, 16], [32, 64], [128, 256]]
    (tmp_path / "cache/detectors").mkdir(parents=True)
    (tmp_path / "cache/detectors/yunet.onnx").write_bytes(b"here")
    study.compare(tmp_path, "demo", 9)
    assert [word.partition("=")[0] for word in asked[1][0].detectors] == ["trained", "untrained", "YuNet", "MTCNN"]


def test_a_run_of_another_kind_or_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no finished run demo_"):
        study.compare(tmp_path, "demo", 9)
    finished_run(tmp_path, arch="ir_tiny")
    with pytest.raises(ValueError, match="no checkpoint of a detector's training"):
        study.compare(tmp_path, "demo", 9)
