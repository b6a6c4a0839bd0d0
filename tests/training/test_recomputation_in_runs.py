"""--activation_checkpointing in a run changes no bit of it."""

from pathlib import Path

import pytest
from short_runs import fit, on_two_ranks, state, write_faces
from torch.testing import assert_close

OPTIONS = {"batch_size": 8, "accumulate_grad_batches": 2, "visibility_gradient": True, "lr": 0.05}


def both(folder, faces, precision):
    """Return what this rank ends with, without and with activation checkpointing."""
    ended = []
    for choice in (False, True):
        path = Path(folder) / str(choice)
        path.mkdir(exist_ok=True)
        options = OPTIONS | {"precision": precision, "activation_checkpointing": choice}
        options |= {"cross_rank_pairs": True}  # of two ranks each has one identity
        ended.append(state(fit(path, data_root=faces, **options)[0]))
    return ended


@pytest.mark.parametrize(
    ("precision", "ranks"), [("bf16", 1), pytest.param("32", 2, marks=pytest.mark.slow)], ids=["bf16", "two ranks"]
)
def test_metrics_and_weights_are_those_of_a_run_without_it(tmp_path, precision, ranks):
    faces = str(write_faces(tmp_path / "faces", identities=4 * ranks))  # bf16 is slow where it has no instructions
    arguments = (str(tmp_path), faces, precision)
    ends = on_two_ranks(both, *arguments) if ranks == 2 else [both(*arguments)]
    for plain, recomputed in ends:
        assert_close(recomputed, plain, rtol=0, atol=0)
    rows = [(tmp_path / str(choice) / "metrics.csv").read_bytes() for choice in (False, True)]
    assert rows[0] == rows[1] and rows[0].count(b"\n") >= 2
