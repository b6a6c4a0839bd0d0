"""Low-rank adapters: small matrices beside frozen linear layers and 1x1 convolutions, merged into them in the end.

`<layer>.lora_down` and `<layer>.lora_up` stand in the state dict beside the layer's own keys; `merge_lora` leaves those
alone, so that a merged net is saved and read as one that never had adapters.

References: Hu et al., "LoRA", ICLR 2022, arXiv:2106.09685; two adapters by image quality: Narayan et al., "PETALface",
WACV 2025, arXiv:2412.07771.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

FOLDED = (
    16  # how much larger a weight may be than both matrices of its adapter, for the adapter to be added to it first
)

Net = TypeVar("Net", bound=nn.Module)


class LoraForm(NamedTuple):
    """What the adapters of a net have in common.

    Attributes:
        rank: r, rows of lora_down of one adapter.
        alpha: an adapter's output is multiplied by alpha / r; None: r.
        dropout: share of the adapter's inputs that training leaves out.
        by_quality: two adapters a layer, mixed by the quality of each image: the first one has (1 - q) x for input, the
            second one q x. `set_quality` tells q before a forward pass.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    by_quality: bool = False

    @property
    def scale(self) -> float:
        """Factor of an adapter's output."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class Lora(nn.Module):
    """What `LoraLinear` and `LoraConv2d` share.

    Attributes:
        lora_down: [r, in]; [2 r, in] of two adapters, the one for quality 0 first.
        lora_up: [out, r], [out, 2 r].
        quality: [B] of the images at hand, in [0, 1]; no buffer, for DDP would give every rank those of rank 0.
    """

    form: LoraForm
    quality: Tensor | None

    def _adapt(self, layer: nn.Linear | nn.Conv2d, form: LoraForm, generator: torch.Generator) -> None:
        """Take the layer's parameters, and begin with adapters that change nothing."""
        _share_parameters(layer, self)
        rows, (width, inputs) = form.rank * (1 + form.by_quality), layer.weight.shape[:2]
        down = layer.weight.new_empty(rows, inputs)
        if not down.is_meta:
            down.copy_(torch.randn(rows, inputs, generator=generator, device="cpu") * form.rank**-0.5)
        self.lora_down = nn.Parameter(down)
        self.lora_up = nn.Parameter(layer.weight.new_zeros(width, rows))
        self.form, self.quality = form, None
        self.scale = form.scale
        self.train(layer.training)

    def delta(self, quality: float | None) -> Tensor:
        """Return what the adapters add to the weight, [out, in], for images of one quality."""
        down: Tensor = self.lora_down
        if self.form.by_quality:
            if quality is None:
                raise ValueError("merge_lora: these adapters are mixed by image quality: say at which, as quality=0.5")
            rows = torch.tensor([1.0 - quality, quality]).repeat_interleave(self.form.rank)
            down = rows.to(down)[:, None] * down
        product: Tensor = self.scale * (self.lora_up.double() @ down.double())
        return product

    def _is_folded(self) -> bool:
        """Return whether the product of the matrices is added to the weight before it meets the inputs.

        One multiplication then does for three, but its gradient is as large as the weight; six thin ones with both
        matrices, forward and backward, are slower until the weight is much larger than they are.
        """
        if self.form.by_quality or (self.form.dropout and self.training):
            return False
        width, inputs = self.lora_up.shape[0], self.lora_down.shape[1]
        return width * inputs <= FOLDED * self.form.rank * (width + inputs)

    def folded(self, weight: Tensor) -> Tensor:
        """Return weight and adapter as one matrix [out, in]."""
        return torch.addmm(weight.flatten(1), self.lora_up, self.lora_down, alpha=self.scale)

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.form.dropout, self.training) if self.form.dropout else x

    def _weighed(self, code: Tensor, axis: int) -> Tensor:
        """Return what lora_down gives, [B, ...] with its rows along an axis, as it enters lora_up."""
        if not self.form.by_quality:
            return self.scale * code
        quality = self.quality
        # What is one for all images, as a code of positions is, becomes one for each of them here.
        if quality is None or quality.ndim != 1 or len(code) not in (1, len(quality)):
            given = None if quality is None else [*quality.shape]
            raise ValueError(
                f"LoRA by quality: expected the quality [{len(code)}] of the images, is {given}; set_quality tells it"
            )
        shares = torch.stack([1 - quality, quality], 1).to(code.dtype)
        rows = self.scale * shares.repeat_interleave(self.form.rank, 1)
        shape = [1] * code.ndim
        shape[0], shape[axis] = rows.shape
        return code * rows.view(shape)


def _share_parameters(source: nn.Module, target: nn.Module) -> None:
    for name in ("weight", "bias"):
        target.register_parameter(name, getattr(source, name))


class LoraLinear(Lora, nn.Linear):
    """A linear layer with adapters; x is [B, ..., in]."""

    def __init__(self, layer: nn.Linear, form: LoraForm, generator: torch.Generator) -> None:
        nn.Linear.__init__(self, layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self._adapt(layer, form, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, ..., out]."""
        if self._is_folded():
            return functional.linear(x, self.folded(self.weight), self.bias)
        code = functional.linear(self._dropped(x), self.lora_down)
        return nn.Linear.forward(self, x) + functional.linear(self._weighed(code, -1), self.lora_up)

    def plain(self) -> nn.Linear:
        """Return a layer without adapters that has this one's parameters."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        _share_parameters(self, layer)
        return layer.train(self.training)


class LoraConv2d(Lora, nn.Conv2d):
    """A 1x1 convolution with adapters; x is [B, in, h, w]."""

    def __init__(self, layer: nn.Conv2d, form: LoraForm, generator: torch.Generator) -> None:
        channels, has_bias = (layer.in_channels, layer.out_channels), layer.bias is not None
        nn.Conv2d.__init__(self, *channels, 1, layer.stride, bias=has_bias, device="meta")  # type: ignore[arg-type]
        self._adapt(layer, form, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, out, ceil(h / stride), ceil(w / stride)]."""
        if self._is_folded():
            return functional.conv2d(x, self.folded(self.weight)[:, :, None, None], self.bias, self.stride)
        code = functional.conv2d(self._dropped(x), self.lora_down[:, :, None, None], stride=self.stride)
        change = functional.conv2d(self._weighed(code, 1), self.lora_up[:, :, None, None])
        return nn.Conv2d.forward(self, x) + change

    def plain(self) -> nn.Conv2d:
        """Return a layer without adapters that has this one's parameters."""
        channels, has_bias = (self.in_channels, self.out_channels), self.bias is not None
        layer = nn.Conv2d(*channels, 1, self.stride, bias=has_bias, device="meta")  # type: ignore[arg-type]
        _share_parameters(self, layer)
        return layer.train(self.training)


def add_lora(model: Net, patterns: Sequence[str], form: LoraForm | None = None, seed: int = 0) -> Net:
    """Give layers of a model adapters, in place, and freeze everything else in it.

    lora_down begins as N(0, 1 / r), lora_up as 0: the outputs are what they were. Parts without adapters are put into
    eval mode, for good: running statistics and dropout of a net that is frozen rest.

    Args:
        model: with its weights loaded; a file of plain weights no longer fits it strictly.
        patterns: of the names of layers, as fnmatch has them. Of what a pattern fits, linear layers and 1x1
            convolutions that are neither grouped nor padded get adapters.
        form: of the adapters; None: rank 8.
        seed: of what they begin with.
    Returns:
        the model.
    Raises:
        ValueError: one line if a pattern fits no such layer, a layer has adapters already, or rank or dropout is none.
    """
    form = LoraForm() if form is None else form
    if form.rank < 1 or not 0 <= form.dropout < 1:
        raise ValueError(f"add_lora: rank >= 1 and dropout in [0, 1) expected, got {form.rank} and {form.dropout:g}")
    builders = {name: make for name, part in model.named_modules() if (make := _builder(part)) is not None}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in builders):
            raise ValueError(
                f"add_lora: no linear layer or 1x1 convolution is called {pattern!r}; names are like"
                f" {', '.join([*builders][::20]) or 'none'}"
            )
    chosen = {name: make for name, make in builders.items() if any(fnmatchcase(name, p) for p in patterns)}
    if twice := [name for name in chosen if isinstance(model.get_submodule(name), Lora)]:
        raise ValueError(f"add_lora: {twice[0]} has adapters already")
    generator = torch.Generator().manual_seed(seed)
    for name, make in chosen.items():
        model.set_submodule(name, make(model.get_submodule(name), form, generator))
    model.requires_grad_(False)
    for _, parameter in lora_parameters(model):
        parameter.requires_grad_(True)
    for part in model.modules():
        part.training = part.training and any(isinstance(inner, Lora) for inner in part.modules())
    return model


def _builder(part: nn.Module) -> Callable[..., Lora] | None:
    if isinstance(part, nn.Linear):
        return LoraLinear
    if not isinstance(part, nn.Conv2d) or part.kernel_size != (1, 1) or part.groups > 1:
        return None
    return LoraConv2d if part.padding in ((0, 0), "valid", "same") else None


def lora_layers(model: nn.Module) -> dict[str, LoraLinear | LoraConv2d]:
    """Return the layers with adapters by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, LoraLinear | LoraConv2d)}


def lora_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the adapters' parameters by their names."""
    for name, layer in lora_layers(model).items():
        yield f"{name}.lora_down", layer.lora_down
        yield f"{name}.lora_up", layer.lora_up


def is_adapter(name: str) -> bool:
    """Return whether an entry of a state dict is an adapter's."""
    return name.endswith((".lora_down", ".lora_up"))


def merged_tensors(state: Mapping[str, Tensor], form: LoraForm) -> dict[str, Tensor]:
    """Return a state dict with the adapters in it added to the weights beside them, as `merge_lora` does.

    Args:
        state: of a net that `add_lora` was given, under any prefix.
        form: of its adapters, not mixed by quality.
    Raises:
        ValueError: one line, if matrices do not fit their weight.
    """
    merged = {name: value for name, value in state.items() if not is_adapter(name)}
    for name in filter(is_adapter, state):
        layer = name.rpartition(".")[0]
        down, up, weight = (state.get(f"{layer}.{part}") for part in ("lora_down", "lora_up", "weight"))
        if down is None or up is None or weight is None or weight.ndim not in (2, 4):
            raise ValueError(f"{layer}: lora_down, lora_up and the weight of a layer expected")
        if down.shape != (form.rank, weight.shape[1]) or up.shape != (len(weight), form.rank):
            raise ValueError(
                f"{layer}: adapters of rank {form.rank} for a weight {[*weight.shape]} expected, got {[*down.shape]}"
                f" and {[*up.shape]}"
            )
        if name.endswith("up"):
            product = form.scale * (up.double() @ down.double())
            merged[f"{layer}.weight"] = (weight.double() + product.view_as(weight)).to(weight.dtype)
    return merged


@torch.no_grad()
def merge_lora(model: Net, quality: float | None = None) -> Net:
    """Add the adapters to the weights of their layers, in place: a net with the plain keys, and the same outputs.

    Args:
        model: of `add_lora`; one without adapters stays as it is.
        quality: of images, in [0, 1], that two adapters are mixed for from here on.
    Returns:
        the model; its weights stay frozen.
    Raises:
        ValueError: if adapters are mixed by quality and none is given, or it is outside [0, 1].
    """
    if quality is not None and not 0 <= quality <= 1:
        raise ValueError(f"merge_lora: a quality in [0, 1] expected, got {quality:g}")
    layers = lora_layers(model)
    deltas = {name: layer.delta(quality) for name, layer in layers.items()}
    for name, layer in layers.items():
        merged = layer.weight.double() + deltas[name].view_as(layer.weight)
        layer.weight.copy_(merged)
        model.set_submodule(name, layer.plain())
    return model


def merged_state(model: nn.Module, quality: float | None = None) -> Mapping[str, Tensor]:
    """Return the state dict that `merge_lora` would leave, for a file of weights; the model stays as it is."""
    return merge_lora(copy.deepcopy(model), quality).state_dict()


def set_quality(model: nn.Module, quality: Tensor | None) -> None:
    """Tell the layers whose adapters are mixed by quality that of the images to come; it stays until the next call.

    A backward pass that repeats parts of a forward pass repeats them with the quality of that forward pass.

    Args:
        model: of `add_lora` with `by_quality`.
        quality: [B] floating, in [0, 1], on the model's device; the range is the caller's duty. None: forget it.
    Raises:
        ValueError: if no layer is mixed by quality.
    """
    layers = [layer for layer in lora_layers(model).values() if layer.form.by_quality]
    if not layers:
        raise ValueError("set_quality: no layer has adapters that are mixed by quality; add_lora gives them")
    for layer in layers:
        layer.quality = quality


@contextmanager
def quality_of(layers: Sequence[tuple[Lora, Tensor | None]]) -> Iterator[None]:
    """Let layers have the quality that stands beside them for a while."""
    before = [layer.quality for layer, _ in layers]
    for layer, quality in layers:
        layer.quality = quality
    try:
        yield
    finally:
        for (layer, _), quality in zip(layers, before, strict=True):
            layer.quality = quality
