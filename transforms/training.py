"""The one transform of training images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from transforms.augment import crop_with_padding, grayscale, low_resolution, mirror, photometric
from transforms.occluders import check_occluders, occlude_in_place
from transforms.view import Image, View, check_image

NUM_STEPS: Final = 6


class TrainingTransform:
    """Occlude, degrade and mirror an image at random, its visibility along with it.

    The steps, in this order: flip, occlusion, crop with padding, low resolution, photometric (these three in AdaFace's
    order), grayscale. Six uniform numbers, in the same order, decide which steps run; then each step that runs draws
    from one generator. So whether a step runs never depends on what another one drew.

    A call does it all to one image. Who makes a batch calls `choose` once for all of it, mirrors images as it places
    them, and calls `alter` for the few that need it.
    """

    def __init__(
        self,
        occluders: Sequence[str] = (),
        occlusion_prob: float = 0.0,
        low_res_prob: float = 0.0,
        crop_prob: float = 0.0,
        photometric_prob: float = 0.0,
        grayscale_prob: float = 0.0,
        flip_prob: float = 0.5,
    ) -> None:
        """Check the settings.

        Args:
            occluders: keys of OCCLUDERS, each equally likely; needed when occlusion_prob > 0.
            occlusion_prob: probability of an occluder. The other probabilities alike.
            low_res_prob: of low_resolution.
            crop_prob: of crop_with_padding.
            photometric_prob: of photometric.
            grayscale_prob: of grayscale: what is drawn loses its colors with the face.
            flip_prob: of a mirror image.
        Raises:
            ValueError: if a probability is outside [0, 1], an occluder is unknown, or none is named while
                occlusion_prob is above 0.
        """
        probabilities = {
            "flip_prob": flip_prob,
            "occlusion_prob": occlusion_prob,
            "crop_prob": crop_prob,
            "low_res_prob": low_res_prob,
            "photometric_prob": photometric_prob,
            "grayscale_prob": grayscale_prob,
        }
        for name, probability in probabilities.items():
            if not 0.0 <= probability <= 1.0:
                raise ValueError(
                    f"TrainingTransform: {name} must be in [0, 1], got {probability}: a share of the images."
                )
        check_occluders(occluders, "TrainingTransform")
        if occlusion_prob > 0 and not occluders:
            raise ValueError(
                f"TrainingTransform: occlusion_prob is {occlusion_prob} but occluders is empty; name at least one."
            )
        self.occluders = tuple(occluders)
        self.low_res_prob = low_res_prob
        self._probabilities = np.array(list(probabilities.values()))

    def __call__(self, image: Image, rng: np.random.Generator) -> View:
        """Return a view of `image` uint8 [112, 112, 3] RGB, which stays unchanged.

        Six uniform numbers are drawn first, then what the steps draw: a view is a function of image and generator.

        Raises:
            TypeError: if the image is not uint8. ValueError: if it has another shape.
        """
        check_image(image, "TrainingTransform")
        mirrored, steps = self.choose(rng.random((1, NUM_STEPS)))
        view = View(mirror(image) if mirrored[0] else image.copy(), np.ones(image.shape[:2], np.uint8))
        self.alter(view, steps[0], rng)
        return view

    def choose(self, uniforms: NDArray[np.floating]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which images to mirror, bool [N], and the other steps that run on each, bool [N, 5].

        Args:
            uniforms: [N, 6 or more] in [0, 1), of which the first six columns decide.
        """
        chosen = uniforms[:, :NUM_STEPS] < self._probabilities
        return chosen[:, 0], chosen[:, 1:]

    def alter(self, view: View, steps: NDArray[np.bool_], rng: np.random.Generator) -> None:
        """Apply some of the steps but the flip to a view in place.

        Args:
            view: the image, mirrored where that was chosen; all of it is visible.
            steps: bool [5], a row of what `choose` returned.
            rng: where the steps draw.
        """
        occludes, crops, degrades, recolors, grays = steps.tolist()
        if occludes:
            occlude_in_place(view, rng, self.occluders)
        if crops:
            view.image[:], view.visibility[:] = crop_with_padding(view, rng)
        if degrades:
            view.image[:] = low_resolution(view.image, rng)
        if recolors:
            view.image[:] = photometric(view.image, rng)
        if grays:
            view.image[:] = grayscale(view.image)
