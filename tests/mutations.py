"""Structural mutations of what a checkpoint holds: one place changed, the rest as it was."""

import copy
import random

import torch
from torch import Tensor

SCALARS = (
    None,
    True,
    -1,
    0,
    7,
    2**40,
    2**80,
    -0.5,
    float("nan"),
    float("inf"),
    1e308,
    "",
    "x\x1b[31m\n\0",
    "a" * 10**5,
)


def places(node, path=()):
    """Yield the path of every node below `node`, containers and leaves; of long lists the first members."""
    items = node.items() if isinstance(node, dict) else enumerate(node[:3]) if isinstance(node, list | tuple) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def mutated(content, seed):
    """Return (a copy of nested data with one mutation, its description); tensors that stay are shared."""
    rng = random.Random(seed)
    # A place at random would nearly always be a weight: draw the part first.
    part = rng.choice(sorted(content))
    path = rng.choice([(part,), *places(content[part], (part,))])
    result = _shallow(content, path)
    parent = result
    for key in path[:-1]:
        parent = parent[key]
    kind, change = rng.choice(_changes(parent[path[-1]], rng))
    if kind == "missing" or (kind == "renamed" and isinstance(parent, list)):
        del parent[path[-1]]
    elif kind == "renamed":
        parent[f"{path[-1]}_"] = parent.pop(path[-1])
    else:
        parent[path[-1]] = change
    return result, f"{kind} at {'/'.join(map(str, path))[:150]}"


def _shallow(content, path):
    """Copy the containers on the way to a place; tuples become lists and tell so by their type."""
    copied = copy.copy(content) if isinstance(content, dict) else list(content)
    if len(path) > 1:
        copied[path[0]] = _shallow(copied[path[0]], path[1:])
    return copied


def _changes(value, rng):
    """Return (name, new value) of what can become of a node."""
    others = [("another scalar", rng.choice(SCALARS)), ("a tensor", rng.choice(_tensors())), ("code", torch.float32)]
    others += [
        ("an empty container", rng.choice([{}, [], ()])),
        ("nested", _nested(rng)),
        ("missing", None),
        ("renamed", None),
    ]
    if isinstance(value, Tensor):
        others += [(f"tensor: {name}", tensor) for name, tensor in _spoilt(value, rng)] * 2
    if isinstance(value, dict):
        extra = rng.choice(["extra", 0, -1, "a.b", "\x1b[2J", 2**70, None, (1, 2)])
        others += [
            ("emptied", {}),
            ("a list", [*value.items()]),
            ("extra", {**value, extra: rng.choice(SCALARS)}),
        ]
        others += [
            ("halved", dict(list(value.items())[::2])),
            ("swapped", dict(zip(value, list(value.values())[::-1], strict=True))),
        ]
    if isinstance(value, list | tuple):
        others += [
            ("doubled", [*value, *value]),
            ("emptied", []),
            ("a dict", dict(enumerate(value))),
            ("halved", list(value)[::2]),
        ]
    if isinstance(value, int | float) and not isinstance(value, bool):
        others += [("number", n) for n in (value + 1, -value - 1, value * 1000, float(value), str(value), 10**400)]
    return others


def _spoilt(tensor, rng):
    yield "flat", tensor.reshape(-1)
    yield "more dimensions", tensor[None]
    yield "empty", tensor.new_zeros(0)
    yield "giant", torch.zeros(1).expand(10**6, 10**6)
    yield (
        "expanded",
        tensor.flatten()[:1].clone().expand(tensor.numel()).view(tensor.shape) if tensor.numel() else tensor,
    )
    yield "other dtype", tensor.to(rng.choice([torch.int64, torch.float16, torch.float64, torch.bool, torch.complex64]))
    yield "nan", torch.full(tensor.shape, float("nan"))
    yield "infinite", torch.full(tensor.shape, float("-inf"), dtype=torch.float64)
    yield "negative", torch.full(tensor.shape, -3, dtype=tensor.dtype if tensor.dtype != torch.uint8 else torch.int8)
    yield "sparse", torch.zeros(4, 4).to_sparse()
    yield "meta", torch.empty(tensor.shape, device="meta")


def _tensors():
    return [
        torch.zeros(3),
        torch.tensor(0.5),
        torch.tensor(float("nan")),
        torch.zeros(0),
        torch.zeros(1).expand(10**12),
    ]


def _nested(rng):
    inner = []
    if rng.random() < 0.5:
        inner.append(inner)
        return inner
    for _ in range(200):
        inner = [inner, inner]
    return inner
