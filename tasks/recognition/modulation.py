"""What a modulator does to the maps of a batch, and what its head is to find in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import nets
from datasets import Sample
from transforms import IMAGE_SIZE

if TYPE_CHECKING:
    from tasks.recognition.terms import Forward


class Modulation(NamedTuple):
    """What modulates the maps of a batch.

    Attributes:
        net: the modulator.
        batch: of a training.
        images: [B, 3, 112, 112] in [-1, 1], as the backbone saw them; of two views [2B, ...], HR first.
    """

    net: nets.Modulator
    batch: Sample[Tensor, Tensor]
    images: Tensor

    def known(self) -> Tensor:
        """Return the covariates of the images, [B, k] or [2B, k] float32, as the training knows them.

        The visible share is that of the mask; the HR view of a pair is said to have 112 pixels.
        """
        batch, known = self.batch, dict[str, Tensor]()
        views = len(self.images) // len(batch.label)
        for name in self.net.widths:
            if name == "quality":
                known[name] = nets.image_quality(self.images)
            elif name == "visible":
                assert batch.visibility is not None, "a training view gives it"
                known[name] = batch.visibility.float().mean((1, 2)).repeat(views)
            elif name == "resolution":
                assert batch.second is not None and batch.second.side is not None, "the options ask for views"
                known[name] = torch.cat([torch.full_like(batch.second.side, IMAGE_SIZE), batch.second.side])
            else:
                known[name] = batch.dataset_id.repeat(views)
        on_device = {name: values.to(self.images.device) for name, values in known.items()}
        return nets.join_covariates(on_device, self.net.widths.get("dataset", 1))


def covariate_loss(forward: Forward) -> Tensor:
    """Return the mean squared error of what the modulator's head finds in the backbone's maps, a scalar."""
    assert forward.modulation is not None, "a run with covariates has one"
    found = forward.modulation.net.predict(forward.features.feature_map)
    return functional.mse_loss(found, forward.modulation.known().to(found))
