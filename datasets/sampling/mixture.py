"""Batches from several data sets, each of which has its share of every batch."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets.sample import SampleKey
from datasets.sampling.curriculum import Curriculum, CurriculumMix, draw_weighted
from datasets.sampling.grouping import Groups, Indices, check_labels, group_by_label
from datasets.sampling.pk_plan import Positions, plan_epoch, plan_single_images
from datasets.sampling.samplers import PlannedSampler, check_sizes
from datasets.sampling.shares import FloatArray, changing_shares, whole_shares

# The fourth word of a generator's key (seed, epoch, set, .), apart from those of the other samplers.
_SET_STREAM, _ORDER_STREAM = 6, 7
_NO_IMAGE = -1
_MANY_PASSES = 100  # of a run: so often a set is learned by heart
_ENDED = Curriculum(0, 0)  # before it began


class MixtureBatchSampler(PlannedSampler):
    """Batches with a quota of K-image groups for each of several data sets.

    A set with share p gets floor(p * P) or one more of the P = batch_size / K groups of every batch: the places left
    over by rounding down go to the sets that lag most behind p times all groups so far, counted from the first epoch
    on. So after any number of batches a set is within 2 groups of its expectation (seen: 1.2 at most, in thousands of
    mixtures of up to 12 sets).

    Within a set, batches are PK batches: the groups of a batch are of different identities, and an image comes the
    (n + 1)-th time only when all have come n times, but for the images repeated to fill the last group of an identity
    and for identities with more groups than there are batches. A set's groups are spread evenly over each batch, so
    that every rank gets about its share of every set.

    With a `CurriculumMix` the shares move from the first weights to the final ones, and what an unfinished pass over a
    set takes is drawn by ease: the groups of an identity by the mean weight of its images, which for K = 1 is an image;
    which of its images a group holds stays as it is. From the curriculum's end on the plan is, to the bit, the one
    without a curriculum (where the shares have moved, single groups of a quota may fall into other batches).

    An epoch has as many batches as all groups of all sets fill, or the share of them that the mix says. The plan
    depends on (seed, epoch) alone. `__iter__` yields positions in the sets laid end to end; `keys` gives the set and
    the position in it.

    Args:
        labels: of each set, [N] integers >= 0, a label space of its own.
        batch_size: images over all ranks, divisible by K * world_size.
        weights: of each set, > 0, in proportion to its share of a batch; or how they change; None: each set is passed
            once an epoch.
        instances: K; None: single images, whatever their identity (K = 1).
        seed: >= 0.
        rank, world_size: which part of each batch to yield.
    Attributes:
        names: of the sets, for `summary` and `warnings`; their numbers unless they are given others.
    Raises:
        ValueError: if the sizes do not divide, there is no set, weights are not finite and positive, or a set has fewer
            identities (images for instances=None) than its quota, or the curriculum does not fit.
        TypeError: if labels are not integers.
    """

    def __init__(
        self,
        labels: Sequence[ArrayLike],
        batch_size: int,
        weights: Sequence[float] | CurriculumMix | None = None,
        instances: int | None = 4,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.instances = 1 if instances is None else instances
        check_sizes(type(self).__name__, batch_size, self.instances, world_size)
        super().__init__(batch_size, seed, rank, world_size)
        checked = [check_labels(of_set, type(self).__name__) for of_set in labels]
        self._sets = [group_by_label(np.arange(len(of_set)) if instances is None else of_set) for of_set in checked]
        self._starts = np.cumsum([0, *map(len, checked)]).tolist()
        self.names = [str(number) for number in range(len(checked))]
        num_groups = [int((-(-groups.counts // self.instances)).sum()) for groups in self._sets]
        self._per_batch = batch_size // self.instances
        if not isinstance(weights, CurriculumMix):
            weights = CurriculumMix(_ENDED, num_groups if weights is None else weights)
        self._mix = weights
        self._shares = whole_shares(weights.weights, len(num_groups))
        self._ease = _checked_ease(weights, checked)
        self._num_batches = int(sum(num_groups) * weights.epoch_share) // self._per_batch
        # Both are functions of the epoch, so that threads may fill them in at the same time.
        self._lags = {0: [0] * len(num_groups)}  # of each set at the start of an epoch
        self._summed: tuple[int, NDArray[np.int64]] | None = None  # an epoch, and the quotas before each batch
        extremes = [self.shares(epoch) for epoch in (0, math.ceil(weights.curriculum.end))]
        for number, groups in enumerate(self._sets):
            quota = max(self._largest_quota(number, shares) for shares in extremes)
            if len(groups.counts) < quota:
                raise ValueError(
                    f"{type(self).__name__}: a batch takes {quota} groups of {self.instances} "
                    f"images from set {number}, which has {len(groups.counts)} identities; choose a smaller batch_size "
                    "or give the set less weight"
                )
        if not self._num_batches:
            raise ValueError(f"{type(self).__name__}: epoch_share leaves an epoch no batch of {batch_size} images")

    def __len__(self) -> int:
        return self._num_batches

    def keys(self) -> Iterator[list[SampleKey]]:
        """Return the batches of `__iter__` as keys, with the number of the set and the position in it."""
        return ([self._in_its_set(key) for key in keys] for keys in super().keys())

    def _in_its_set(self, key: SampleKey) -> SampleKey:
        number = bisect_right(self._starts, key.index) - 1
        return key._replace(dataset=number, index=key.index - self._starts[number])

    def quotas(self) -> NDArray[np.int64]:
        """Return the groups of each set in each batch of the current epoch, int64 [num_batches, num_sets]."""
        return self._share_out(self._lags_before(self.epoch), self.shares(self.epoch))[0]

    def _lags_before(self, epoch: int) -> list[int]:
        for before in range(epoch):
            if before + 1 not in self._lags:
                self._lags[before + 1] = self._share_out(self._lags[before], self.shares(before))[1]
        return self._lags[epoch]

    def drawn(self, epoch: int, batches: int = 0) -> NDArray[np.int64]:
        """Return how many images of each set are in all epochs before one and in its first batches, int64 [num_sets].

        Any thread may ask.
        """
        shares = [self.shares(before) for before in range(epoch)]
        planned = np.array(shares, object).reshape(epoch, -1).sum(0) if epoch else 0  # whole numbers of any length
        lags = np.array(self._lags_before(epoch), object)
        groups = (len(self) * self._per_batch * planned - lags) // sum(self.shares(epoch))
        if batches:
            summed = self._summed
            if summed is None or summed[0] != epoch:
                quotas = self._share_out(self._lags_before(epoch), self.shares(epoch))[0]
                self._summed = summed = epoch, np.concatenate([np.zeros_like(quotas[:1]), quotas.cumsum(0)])
            groups = groups + summed[1][batches]
        return np.asarray(groups * self.instances, np.int64)

    def shares(self, epoch: int) -> list[int]:
        """Return the planned shares of the sets in an epoch as whole numbers; their sum is that of all epochs."""
        mix = self._mix
        if mix.final_weights is None:
            return self._shares
        return changing_shares(mix.curriculum.mix(mix.weights, mix.final_weights, epoch))

    def mean_ease(self, drawn: bool = False) -> float | None:
        """Return the mean ease of all images of the sets that know it, or of those of the current epoch's plan.

        None: no set knows it, or the epoch draws nothing from those that do.
        """
        if all(ease is None for ease in self._ease):
            return None
        sizes = np.diff(self._starts).tolist()
        parts = [np.full(n, np.nan) if ease is None else ease for ease, n in zip(self._ease, sizes, strict=True)]
        known = np.concatenate(parts)
        values = known[self.plan().ravel()] if drawn else known
        values = values[~np.isnan(values)]
        return float(values.mean()) if values.size else None

    def summary(self) -> str:
        """Return a line for the log about the current epoch: the passes of each set, how far the curriculum is."""
        drawn = self.quotas().sum(0) * self.instances
        sizes = np.diff(self._starts)
        sets = (
            f"set {name}: {images} of {size} images, {images / size:.2f} passes"
            for name, images, size in zip(self.names, drawn.tolist(), sizes.tolist(), strict=True)
        )
        curriculum = self._mix.curriculum
        course = "" if curriculum == _ENDED else f", curriculum at {curriculum.progress(self.epoch):.0%}"
        return f"epoch {self.epoch}: {len(self)} batches{course}; {'; '.join(sets)}"

    def warnings(self, num_epochs: int) -> list[str]:
        """Return in sentences which sets a run repeats a hundred times or more, and which it does not get through."""
        found = []
        for number, size in enumerate(np.diff(self._starts).tolist()):
            held = f"Set {self.names[number]} has {size} images"
            shares = (self.shares(epoch) for epoch in range(num_epochs))
            passes = sum(of_sets[number] / sum(of_sets) for of_sets in shares) * len(self) * self.batch_size / size
            if passes >= _MANY_PASSES:
                found.append(
                    f"{held} and is passed {passes:.0f} times in {num_epochs} epochs: it will be learned by heart. "
                    "Give it less weight."
                )
            elif passes < 1:
                found.append(
                    f"{held}, of which {num_epochs} epochs see {passes:.1%}: the rest never takes part. Give it more "
                    "weight or train for more epochs."
                )
        return found

    def _largest_quota(self, number: int, shares: list[int]) -> int:
        return -(-self._per_batch * shares[number] // sum(shares))

    def _share_out(self, lags: list[int], shares: list[int]) -> tuple[NDArray[np.int64], list[int]]:
        """Return the quotas of an epoch that starts with some lags, and the lags after it, in 1 / sum(shares) groups.

        The largest remainder takes the place, the remainders being carried on from batch to batch.
        """
        total, lags = sum(shares), lags.copy()
        fixed, remainders = zip(*(divmod(self._per_batch * share, total) for share in shares), strict=True)
        left_over = self._per_batch - sum(fixed)
        quotas = np.tile(np.array(fixed), (len(self), 1))
        sets = [number for number, remainder in enumerate(remainders) if remainder]
        for batch in range(len(self) if left_over else 0):
            lags = [lag + remainder for lag, remainder in zip(lags, remainders, strict=True)]
            for number in sorted(sets, key=lags.__getitem__, reverse=True)[:left_over]:
                quotas[batch, number] += 1
                lags[number] -= total
        return quotas, lags

    def _plan(self) -> NDArray[np.int64]:
        quotas = self.quotas()
        rng = np.random.default_rng((self.seed, self.epoch, 0, _ORDER_STREAM))
        cells, spots = [], []
        for number, start in enumerate(self._starts[:-1]):
            part = self._plan_set(number, quotas[:, number])
            cells.append(np.add(part, start, out=part, where=part != _NO_IMAGE))
            spots.append((np.arange(part.shape[1]) + rng.random((len(self), 1))) / part.shape[1])
        groups = np.concatenate(cells, axis=1)
        order = np.argsort(np.concatenate(spots, axis=1), axis=1)
        order += np.arange(len(self))[:, None] * groups.shape[1]
        flat, places = groups.reshape(-1, self.instances), order.ravel()
        places = places[flat[:, 0][places] != _NO_IMAGE]
        return flat.take(places, axis=0).reshape(len(self), self.batch_size).astype(np.int64, copy=False)

    def _plan_set(self, number: int, quota: Indices) -> Positions:
        """Return the images of a set in every batch, integers [num_batches, largest quota, K]; no group: _NO_IMAGE.

        One identity more, whose only image is _NO_IMAGE, stands for the places that the smaller quota leaves open.
        """
        rng = np.random.default_rng((self.seed, self.epoch, number, _SET_STREAM))
        groups, height = self._sets[number], self._largest_quota(number, self.shares(self.epoch))
        weights = self._identity_weights(number)
        if groups.counts.max() == 1:
            placed = np.full((len(quota), height), _NO_IMAGE)
            placed[np.arange(height) < quota[:, None]] = groups.order[
                plan_single_images(quota, len(groups.counts), rng, weights)
            ]
            return placed[..., None].repeat(self.instances, axis=2)
        one_pass = -(-groups.counts // self.instances)
        num_groups = _count_groups(one_pass, int(quota.sum()), len(quota), rng, weights)
        is_short = quota < height
        if is_short.any():
            size = groups.order.size
            groups = Groups(*map(np.append, groups, (_NO_IMAGE, size, 1)))
            num_groups = np.append(num_groups, is_short.sum())
        cells = plan_epoch(groups, num_groups, height, self.instances, rng).reshape(len(quota), height, self.instances)
        # The rows come in random order: those with an open place go where one is wanted.
        planned_short = (cells[..., 0] == _NO_IMAGE).any(axis=1)
        placed = np.empty_like(cells)
        placed[is_short], placed[~is_short] = cells[planned_short], cells[~planned_short]
        return placed

    def _identity_weights(self, number: int) -> FloatArray | None:
        """Return the mean weight of each identity's images in the current epoch; None: all images weigh the same."""
        ease, groups = self._ease[number], self._sets[number]
        if ease is None or self._mix.curriculum.progress(self.epoch) == 1:
            return None
        weights = self._mix.curriculum.weights(ease, self.epoch)
        return np.add.reduceat(weights[groups.order], groups.starts) / groups.counts


def _checked_ease(mix: CurriculumMix, labels: Sequence[Indices]) -> list[FloatArray | None]:
    """Return the ease of each set's images, or refuse a mix that does not fit the sets."""
    if not 0 < mix.epoch_share <= 1:
        raise ValueError(f"MixtureBatchSampler: epoch_share must be in (0, 1], got {mix.epoch_share}")
    if mix.final_weights is not None:
        whole_shares(mix.final_weights, len(labels))
    given = [None] * len(labels) if mix.ease is None else mix.ease
    if len(given) != len(labels):
        raise ValueError(f"MixtureBatchSampler: {len(labels)} sets need as many entries of ease, got {len(given)}")
    checked = [None if ease is None else np.asarray(ease, np.float64) for ease in given]
    for number, (ease, of_set) in enumerate(zip(checked, labels, strict=True)):
        if ease is not None and (ease.shape != of_set.shape or not ((ease >= 0) & (ease <= 1)).all()):
            raise ValueError(
                f"MixtureBatchSampler: the ease of set {number} must be [{len(of_set)}] numbers in [0, 1], got "
                f"{list(ease.shape)}"
            )
    return checked


def _count_groups(
    one_pass: Indices, total: int, most: int, rng: np.random.Generator, weights: FloatArray | None
) -> Indices:
    """Return how many of `total` groups each identity gives: whole passes over all, the rest of a pass at random.

    Args:
        one_pass: int64 [identities], groups of each identity in a pass.
        total: groups of all, at most most * identities.
        most: groups that an identity may give, one a batch.
        rng: decides the rest.
        weights: float64 [identities], of each group of an identity in the rest of a pass; None: all alike.
    """

    sizes, repeated = np.unique(one_pass, return_counts=True)  # a few, where identities are millions

    def count(passes: int) -> int:
        return int(np.minimum(passes * sizes, most) @ repeated)

    passes = bisect_right(range(total + 1), total, key=count) - 1
    whole = np.minimum(passes * one_pass, most)
    more = np.minimum((passes + 1) * one_pass, most) - whole
    rest = total - int(whole.sum())
    if weights is None:
        return whole + rng.multivariate_hypergeometric(more, rest)
    owners = np.repeat(np.arange(len(more)), more)
    drawn = owners[draw_weighted(weights[owners], rest, rng)]
    return whole + np.bincount(drawn, minlength=len(more))
