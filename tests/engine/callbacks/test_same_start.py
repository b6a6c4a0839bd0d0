"""Ranks that would start at different places, or on different data, are refused."""

import os
from pathlib import Path

import pytest
from short_runs import fit, on_two_ranks, write_faces

from engine.callbacks.same_start import RanksDisagreeError


def refusal(folder, data_roots, checkpoints):
    """Train on this rank and return why that was refused."""
    rank = int(os.environ["RANK"])
    options = {"batch_size": 8, "epochs": 2, "cross_rank_pairs": True}  # a rank has one identity
    try:
        fit(Path(folder), ckpt_path=checkpoints[rank], data_root=data_roots[rank], **options)
    except RanksDisagreeError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return str(write_faces(tmp_path_factory.mktemp("faces")))


def test_a_rank_that_does_not_see_the_checkpoint_is_refused_on_all_ranks(faces, tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    fit(tmp_path / "first", data_root=faces, batch_size=8)
    checkpoint = str(tmp_path / "first" / "last.ckpt")
    found = on_two_ranks(refusal, str(tmp_path / "second"), [faces] * 2, [checkpoint, None])
    assert found[0] == found[1]
    assert "rank 1 would start with step 0, images 32" in found[0] and "rank 0 with step 4, images 32" in found[0]


def test_a_rank_with_other_labels_is_refused(faces, tmp_path):
    other = write_faces(tmp_path / "other")
    (other / "train" / "person_00" / "0.png").rename(other / "train" / "person_01" / "9.png")
    found = on_two_ranks(refusal, str(tmp_path), [faces, str(other)], [None, None])
    assert all("rank 1 would start with step 0, images 32, labels" in reason for reason in found)
