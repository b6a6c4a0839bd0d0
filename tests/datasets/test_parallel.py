"""Results in order, from this process and from others."""

import os
import time

import pytest

from datasets.parallel import ordered_results


def slow_first(number):
    time.sleep(0.2 if number == 0 else 0)
    if number == 39:
        raise ValueError("the last")
    return number, os.getpid()


def die(number):
    os._exit(1)


def test_results_and_errors_come_in_order_from_other_processes():
    taken, found = [], []
    tasks = (taken.append(number) or number for number in range(40))
    with pytest.raises(ValueError, match="the last"), ordered_results(slow_first, tasks, jobs=2) as results:
        found.append(next(results))
        assert len(taken) <= 6  # no more than are needed: there may be millions
        found.extend(results)
        pytest.fail("the error was lost")
    # extend() keeps what came before the error.
    numbers, processes = zip(*found, strict=True)
    assert list(numbers) == list(range(39))
    assert os.getpid() not in processes


def test_one_job_stays_in_this_process():
    with ordered_results(slow_first, [1, 2], jobs=1) as results:
        assert list(results) == [(1, os.getpid()), (2, os.getpid())]


def test_a_process_that_dies_is_said_in_one_line():
    with pytest.raises(OSError, match="a worker process was killed"), ordered_results(die, [0], jobs=2) as results:
        list(results)
