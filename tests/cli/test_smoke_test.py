"""`--fast_dev_run`: whether all parts work, said within a minute."""

import resource

import pytest
from programs import program

from cli.training import shrink
from config import Config


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_a_smoke_test_of_the_default_options_takes_less_than_a_minute(tmp_path):
    """Of processor time, rendering included: a busy machine takes longer, and that is not ours to fail."""
    before = cpu_seconds()
    done = program("main.py", "--fast_dev_run", "--gpus", "0", cwd=tmp_path, MASKWISE_CACHE=tmp_path / "cache")
    assert cpu_seconds() - before < 60
    assert "batch_size 8" in done.stderr and "ir_50" in done.stderr
    assert not (tmp_path / "experiments").exists()


def test_a_smoke_test_leaves_what_the_user_gave_and_what_a_rank_needs():
    given = Config(fast_dev_run=True, batch_size=64, num_processes=2, gpus=0)
    assert shrink(given, {"batch_size"}).batch_size == 64
    assert shrink(given, set()).batch_size == 16  # two people of four images on each of two ranks
    assert shrink(Config(fast_dev_run=True, batch_size=4, gpus=0), set()).batch_size == 4
    classes = Config(fast_dev_run=True, class_embeddings=True, k_nearest=70, gpus=0)
    assert shrink(classes, {"k_nearest"}).synthetic_identities > 70
    counted = Config(fast_dev_run=True, custom_num_class=200, gpus=0)
    assert shrink(counted, {"custom_num_class"}).synthetic_identities == 200
