"""Training pairs: one decoding of each file, one geometry, one occluder and one light for both; then the resolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datasets.faces.view import TrainingView, read_or_replace
from datasets.paired.dataset import pair_reader
from datasets.sample import ArrayBatch, FaceDataset, Image, Sample, SampleKey
from transforms import IMAGE_SIZE, Degradation, TrainingTransform, View, mirror
from transforms.degradation import LEAST_SIDE, resized
from transforms.view import check_image


class PairedTrainingView(TrainingView):
    """Augmented pairs, addressed by `SampleKey`: `image` at the high resolution, `second` at the low one.

    What the transform draws is drawn once and done to both: mirror image, crop, occluder, light and color. `second` is
    then either

    * the augmented `image`, degraded with numbers of its own (view 1 of the key), or
    * the partner's file, augmented by the very numbers of `image`. What is drawn on it has its resolution: it is
      enlarged, altered and brought back to the size of the file.

    `second.side` says how much is left of the resolution, as far as is known: of a file it is the longer side, at most
    112, which says nothing of a file that was enlarged before.

    A pair of which one image cannot be read is replaced like an image, see `TrainingView`.

    Args:
        dataset: `PairedFaces` or a subset of one; with a degradation any data set.
        transform: what is done to both; without low resolution, which is the business of the second view.
        seed: >= 0.
        degradation: what makes low-resolution images; None: the data set has them.
        lr_size: side in pixels that low-resolution images are brought to, bicubically where they grow: 112, or less for
            a network that enlarges them itself. All of a batch have it.
    Raises:
        ValueError: if the data set has pairs and there is a degradation, or neither; if the transform lowers the
            resolution of both; if lr_size is not in [4, 112].
    """

    def __init__(
        self,
        dataset: FaceDataset,
        transform: TrainingTransform,
        seed: int,
        degradation: Degradation | None = None,
        lr_size: int = IMAGE_SIZE,
    ) -> None:
        super().__init__(dataset, transform, seed)
        self._read_pair = pair_reader(dataset, degradation is not None, "PairedTrainingView")
        if transform.low_res_prob:
            raise ValueError(
                f"PairedTrainingView: low_res_prob {transform.low_res_prob} would lower the resolution of both views; "
                "set it to 0, the second view has one of its own"
            )
        if not LEAST_SIDE <= lr_size <= IMAGE_SIZE:
            raise ValueError(f"PairedTrainingView: lr_size must be in [{LEAST_SIDE}, {IMAGE_SIZE}], got {lr_size}")
        self._transform = transform
        self._degradation = degradation
        self._lr_size = lr_size

    @property
    def num_views(self) -> int:
        """Views of every image: 2."""
        return 2

    @property
    def second_size(self) -> int:
        """Side in pixels of the second views."""
        return self._lr_size

    def __getitems__(self, keys: Sequence[SampleKey]) -> ArrayBatch:
        """Return the augmented pairs of one or more keys of view 0 in arrays.

        Raises:
            UnreadableImageError: if no pair of the data set can be read.
            TypeError, ValueError: if the data set gives anything but uint8 [112, 112, 3].
        """
        images, visibility = self._memories[0].take(len(keys))
        low = np.empty((len(keys), self._lr_size, self._lr_size, 3), np.uint8)
        visibility.fill(1)
        mirrored, steps = self._transform.choose(self._streams.uniforms(keys))
        used, sides = np.empty((2, len(keys)), np.int64)
        for row, key in enumerate(keys):
            used[row], (hr, lr) = read_or_replace(self._read_pair, self.labels, key.index)
            check_image(hr, "PairedTrainingView")
            view = View(images[row], visibility[row])
            view.image[:] = mirror(hr) if mirrored[row] else hr
            if steps[row].any():
                self._transform.alter(view, steps[row], self._streams.generator(key))
            if self._degradation is not None:
                other = self._streams.generator(key._replace(view=1))
                small, sides[row] = self._degradation.shrink(view.image, other)
            elif steps[row].any():
                small = self._altered(mirror(lr) if mirrored[row] else lr, steps[row], key)
                sides[row] = len(small)
            else:
                # Mirrored last, it is the mirror image to the bit: rounding as it grows is not symmetric.
                small = resized(lr, self._lr_size)
                small, sides[row] = mirror(small) if mirrored[row] else small, len(lr)
            low[row] = resized(small, self._lr_size)
        drawn = np.array([key.index for key in keys])
        dataset_id = np.array([key.dataset for key in keys])
        unreadable = np.where(used == drawn, -1, drawn)
        batch: ArrayBatch = Sample(images, self.labels[used], dataset_id, visibility, used, unreadable)
        return batch._replace(second=batch._replace(image=low, side=sides))

    def _altered(self, lr: Image, steps: NDArray[np.bool_], key: SampleKey) -> Image:
        """Return a partner [s, s, 3] after the steps of the other view, by its numbers."""
        view = View(resized(lr, IMAGE_SIZE).copy(), np.ones((IMAGE_SIZE, IMAGE_SIZE), np.uint8))
        self._transform.alter(view, steps, self._streams.generator(key))
        return resized(view.image, len(lr))
