"""Synthetic faces under every occluder, with true and predicted visibility: the picture of the README."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cli.checkpoints import load_pretrained_model
from datasets.synthetic.prepare import render_identities
from evaluation.report.plots import prediction_panel
from train_val import Recognizer
from transforms import OCCLUDERS, View, to_tensor, visibility_map

STREAM = "readme"  # nobody of this stream of synthetic people is in a training set or a benchmark


def occluded_faces(seed: int) -> dict[str, View]:
    """Return a face of another person under each occluder, with its exact mask."""
    images, _ = render_identities(STREAM, len(OCCLUDERS), per_identity=1, seed=seed)
    return {
        name: occluder(image, np.random.default_rng([seed, place]))
        for place, (image, (name, occluder)) in enumerate(zip(images, OCCLUDERS.items(), strict=True))
    }


def predicted_visibility(model: Recognizer, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the visibility [N, h, w] that the model predicts for images uint8 [N, 112, 112, 3] RGB.

    Raises:
        ValueError: if the model has no occlusion head.
    """
    with torch.inference_mode():
        visibility = model.describe(to_tensor(torch.from_numpy(images))).visibility
    if visibility is None:
        raise ValueError("--model-path: this model has no occlusion head; train with --occlusion_loss_weight above 0")
    return visibility[:, 0].numpy()


def draw(model_path: Path, output: Path, seed: int) -> None:
    """Write the picture."""
    model = load_pretrained_model(model_path)
    views = occluded_faces(seed)
    images = np.stack([view.image for view in views.values()])
    masks = np.stack([view.visibility for view in views.values()])
    predicted = predicted_visibility(model, images)
    output.parent.mkdir(parents=True, exist_ok=True)
    title = "Synthetic faces of people who are not in the training set. Light: visible, dark: occluded."
    prediction_panel(output, images, masks, predicted, list(views), title)
    target = visibility_map(torch.from_numpy(masks), *predicted.shape[1:])[:, 0].numpy()
    print(f"{output}: mean squared error of the predicted visibility {np.square(target - predicted).mean():.4f}")
