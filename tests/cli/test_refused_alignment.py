"""Faces that were aligned otherwise than those of the training: refused in one line, unless it is said to be meant."""

import json

import numpy as np
import pytest
import torch
from photographs import background, faces, place, write
from portraits import write_people
from programs import refusal
from short_runs import SMALL, write_faces
from untrained import write_checkpoint

import main_eval
import models
from cli import training
from cli.answers import calibrate, enrol, identify, verify
from config import Config
from models.alignment import TEMPLATE_NAME

ELSEWHERE = {"template": TEMPLATE_NAME, "detector": "yunet_s_dynamic (sha256 12345678)"}


def trained_on(path, **alignment):
    """Write a checkpoint that records how the faces of its training were aligned, and return its path."""
    write_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"]["alignment"] = alignment
    torch.save(checkpoint, path)
    return path


def noted(folder, detector="mtcnn", size=112):
    (folder / "alignment.json").write_text(json.dumps({"detector": detector, "size": size}))
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Folders of people, photographs with a background around the face."""
    root = tmp_path_factory.mktemp("photographs")
    for number, face in enumerate(faces()[:4]):
        image = background(np.random.default_rng(number)).copy()
        place(face, image, scale=1.3)
        write(root / f"p{number // 2}" / f"{number}.png", image)
    return root


def test_a_run_records_how_its_faces_were_aligned_and_is_not_evaluated_on_others(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    root = write_faces(tmp_path / "faces", identities=8, pairs=0)
    options = {**SMALL, "align": "auto", "data_root": str(root), "val_identities": 0.5, "batch_size": 8}

    def prepared(**more):
        given = {**options, **more}
        session = training.prepare(Config(**given), set(given), [])
        if session.lock is not None:
            session.lock.close()
        return session

    assert "alignment" not in prepared().model.hparams, "crops from elsewhere: nothing is known, nothing is refused"
    noted(root / "train")
    session = prepared()
    assert session.model.hparams["alignment"] == {"template": TEMPLATE_NAME, "detector": "mtcnn"}
    saved = str(tmp_path / "last.ckpt")
    checkpoint = {"state_dict": session.model.state_dict(), "hyper_parameters": dict(session.model.hparams)}
    session.model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, saved)
    assert models.load(saved).alignment == models.Alignment(TEMPLATE_NAME, "mtcnn")
    again = {"evaluate": True, "resume_from_checkpoint": saved}
    prepared(**again)
    noted(root / "train", "yunet")
    with pytest.raises(ValueError, match="aligned with the detector 'mtcnn', these are with 'yunet'"):
        prepared(**again)
    prepared(**again, align="no")


def test_an_evaluation_refuses_other_crops_before_it_makes_any(tmp_path, photographs, monkeypatch, capsys):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    model = trained_on(tmp_path / "last.ckpt", **ELSEWHERE)
    crops = noted(write_people(tmp_path / "crops", num=4))

    def words(data, *more):
        return ["--model-path", model, "--data-path", data, "--output-dir", tmp_path / "out", "--gpus", "0", *more]

    assert "aligned with the detector 'yunet_s_dynamic" in refusal(capsys, main_eval.main, *words(crops))
    assert "give --detector" in refusal(capsys, main_eval.main, *words(photographs))
    assert not (tmp_path / "cache" / "aligned").exists() and not (tmp_path / "out" / "results.json").exists()
    assert main_eval.main([str(word) for word in words(crops, "--align", "no")]) == 0
    noted(crops, ELSEWHERE["detector"], size=224)  # the same template, scaled
    assert main_eval.main([str(word) for word in words(crops)]) == 0


def test_answers_refuse_another_detector_than_the_training_had(tmp_path, photographs, capsys):
    pair = photographs / "p0" / "0.png", photographs / "p0" / "1.png"
    flags = ("--model_path", trained_on(tmp_path / "last.ckpt", **ELSEWHERE), "--align", "yes")
    for program, words in {
        verify: pair,
        calibrate: (photographs,),
        enrol: (tmp_path / "gallery.npz", photographs),
    }.items():
        assert "trained on faces aligned with the detector" in refusal(capsys, program.main, *words, *flags)
    as_given = (*flags[:2], "--align", "no")
    assert enrol.main([str(word) for word in (tmp_path / "gallery.npz", photographs, *as_given)]) == 0
    assert "trained on faces" in refusal(capsys, identify.main, tmp_path / "gallery.npz", pair[0], *flags)


def test_what_is_not_known_is_not_refused():
    trained = models.Alignment.of(ELSEWHERE)
    assert trained is not None
    for facts in ({}, {"template": TEMPLATE_NAME, "detector": None}, ELSEWHERE | {"detector": "points of a.csv"}):
        assert models.Alignment.of(facts) is None
        trained.refuse_other(models.Alignment.of(facts))
    with pytest.raises(ValueError, match="with the template"):
        trained.refuse_other(trained._replace(template="another"))
