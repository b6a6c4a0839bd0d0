import pickle

import numpy as np
import pytest
import torch

from datasets.batch_memory import BatchMemory


def test_arrays_have_the_shapes_of_a_batch_and_share_nothing():
    images, visibility = BatchMemory().take(3)
    assert images.shape == (3, 112, 112, 3) and visibility.shape == (3, 112, 112)
    assert images.dtype == visibility.dtype == np.uint8
    assert images.flags.c_contiguous and images.flags.writeable and visibility.flags.c_contiguous
    images.fill(7)
    visibility.fill(1)
    assert (images == 7).all() and (visibility == 1).all()


@pytest.mark.parametrize(
    "keep",
    [
        lambda images, visibility: images,
        lambda images, visibility: visibility,
        lambda images, visibility: images[1][2:5],
        lambda images, visibility: visibility.reshape(-1)[3:][::2],
        lambda images, visibility: torch.from_numpy(images)[0],
        lambda images, visibility: memoryview(visibility),
    ],
)
def test_memory_is_not_used_again_while_any_part_of_it_is_held(keep):
    memory = BatchMemory()
    held = keep(*memory.take(2))
    for _ in range(5):
        images, visibility = memory.take(2)
        assert not np.shares_memory(np.asarray(held), images) and not np.shares_memory(np.asarray(held), visibility)


def test_memory_that_nobody_holds_is_used_again():
    memory = BatchMemory()
    images, visibility = memory.take(2)
    address = images.ctypes.data
    del images, visibility
    again, _ = memory.take(2)
    assert again.ctypes.data == address


def test_many_batches_held_at_once_are_not_all_kept_afterwards():
    memory = BatchMemory()
    batches = [memory.take(1) for _ in range(20)]
    del batches
    assert len(memory._free) <= 2


def test_another_size_gets_memory_of_its_own():
    memory = BatchMemory()
    memory.take(4)
    for num in (1, 6, 4):
        images, visibility = memory.take(num)
        assert len(images) == len(visibility) == num


def test_pickling_leaves_the_memory_behind():
    memory = BatchMemory()
    memory.take(8)
    data = pickle.dumps(memory)
    assert len(data) < 200
    assert len(pickle.loads(data).take(1)[0]) == 1
