"""A device that is none: its tensors keep their numbers on the CPU and refuse what a GPU would refuse.

To torch the tensors are on "meta", and the mode below computes what is asked of them. Tensors of two devices do not
meet, but for copies, indices and CPU scalars; a generator draws on its own device; NumPy takes no tensor of it. It
knows neither sparse tensors nor what changes a size in place, and a module that moves there gets other parameters.
"""

import contextlib
import sys
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
# What takes tensors of two devices on CUDA too.
MIXING = (torch.ops.aten.copy_, torch.ops.aten._to_copy, torch.ops.aten.index, torch.ops.aten.index_put_)


class There(Tensor):
    """A tensor on DEVICE, whose numbers are in `kept`."""

    @staticmethod
    def __new__(cls, kept):
        return Tensor._make_wrapper_subclass(
            cls, kept.size(), kept.stride(), kept.storage_offset(), dtype=kept.dtype, device=DEVICE
        )

    def __init__(self, kept):
        self.kept = kept

    __torch_function__ = torch._C._disabled_torch_function_impl

    # What torch does not ask the mode for.
    def tolist(self):
        return self.kept.tolist()

    def new_tensor(self, data):
        return torch.tensor(data, dtype=self.dtype).to(DEVICE)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} was called outside of the mode")


class Generator(torch.Generator):
    """A generator that remembers its device, by its address: torch hands on another object of it."""

    places: ClassVar[dict[int, str]] = {}

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")

    def __init__(self, device="cpu"):
        self.places[self._cdata] = torch.device(device).type


class OtherDevice(TorchDispatchMode):
    """While it is on, DEVICE can be used.

    Attributes:
        waits: the operators that made the host wait for a number of the device.
    """

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        there = [leaf for leaf in leaves if isinstance(leaf, There)]
        here = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, There)]
        assert not any(leaf.is_meta for leaf in here), f"{function}: a tensor that was made without the mode"
        device = kwargs.get("device")
        lands_there = bool(there) if device is None else torch.device(device) == DEVICE
        if function.overloadpacket not in MIXING:
            mixed = there and any(leaf.dim() for leaf in here)
            assert not mixed, f"{function}: tensors of two devices, {[tuple(leaf.shape) for leaf in here]} on the CPU"
        if function is torch.ops.aten._local_scalar_dense.default and there:
            self.waits.append(function)
        for leaf in leaves:
            if isinstance(leaf, torch._C.Generator):
                place = Generator.places.get(leaf._cdata, "cpu")
                assert place == (DEVICE.type if lands_there else "cpu"), f"{function}: generator on {place}"
        if lands_there and device is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        args, kwargs = tree_map_only(There, lambda tensor: tensor.kept, (args, kwargs))
        found = function(*args, **kwargs)
        known = {id(tensor.kept): tensor for tensor in there} | {id(tensor): tensor for tensor in here}

        def as_seen(tensor):
            """Return what the caller knows a tensor as: one that was changed in place stays the same."""
            return known[id(tensor)] if id(tensor) in known else There(tensor) if lands_there else tensor

        return tree_map_only(Tensor, as_seen, found)


@contextlib.contextmanager
def other_device(monkeypatch):
    """Let DEVICE be used, by fused optimizers and generators too; yield the mode."""
    autocast, tensor = torch.autocast, torch.tensor
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "tensor", lambda data, device=None, **more: tensor(data, **more).to(device or "cpu"))
    monkeypatch.setattr(torch, "autocast", lambda kind, **more: autocast(kind.replace("meta", "cpu"), **more))
    of_optimizers = sys.modules["torch.optim.optimizer"]  # torch.optim hides it
    monkeypatch.setattr(of_optimizers, "_get_fused_kernels_supported_devices", lambda: [DEVICE.type, "cpu"])
    with OtherDevice() as mode:
        yield mode
