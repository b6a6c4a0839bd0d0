"""The form that all occluders share: one function that draws on a scene, to be called on images or in place."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper

import numpy as np

from transforms.landmarks import IMAGE_SIZE
from transforms.painting.scene import Scene, look_at
from transforms.view import Image, View, check_image


class DrawnOccluder:
    """An `Occluder` made of a function that covers a part of a scene's view, which nothing covers yet, in place."""

    def __init__(self, draw: Callable[[Scene], None]) -> None:
        update_wrapper(self, draw)
        self._draw = draw

    def __call__(self, image: Image, rng: np.random.Generator) -> View:
        """Return the occluded view of `image` uint8 [112, 112, 3] RGB, which stays as it is.

        Raises:
            TypeError: if the image is not uint8. ValueError: if it has another shape.
        """
        check_image(image, self._draw.__name__)
        view = View(image.copy(), np.ones((IMAGE_SIZE, IMAGE_SIZE), np.uint8))
        self.cover(view, rng)
        return view

    def cover(self, view: View, rng: np.random.Generator) -> None:
        """Occlude a view, all of it visible so far, in place: batches are made in memory of their own."""
        self._draw(look_at(view, rng))
