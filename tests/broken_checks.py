"""A module that cannot even say its checks, for `benchmarks/test_gpu_part.py`."""


def cases(on_gpu):
    return 1 / 0
