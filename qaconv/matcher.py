"""Query-adaptive convolution: matches feature maps cell by cell and scores pairs of them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops import at_least_float32
from qaconv.blocks import Maps
from qaconv.class_embeddings import ClassEmbeddings
from qaconv.correlation import best_matches
from qaconv.occlusion import OCCLUSION_METHODS, VISIBLE_FROM, Cells
from qaconv.scoring import MomentsOf, PublishedLayers, published_scores, weighted_scores

SCORES = ("bn_fc", "weighted")
_INITIAL_SCALE = 32.0  # of "weighted", about that of a margin head


def _check_maps(maps: Tensor, visibility: Tensor | None, shape: tuple[int, int, int], where: str) -> None:
    if maps.ndim != 4 or tuple(maps.shape[1:]) != shape or not maps.is_floating_point():
        raise ValueError(
            f"{where} must be floating [N, {', '.join(map(str, shape))}] as QAConv was built for, got "
            f"{maps.dtype} {list(maps.shape)}; pass the net's feature map, normalized over channels."
        )
    expected = (maps.shape[0], 1, *shape[1:])
    if visibility is not None and (tuple(visibility.shape) != expected or not visibility.is_floating_point()):
        raise ValueError(
            f"{where}_visibility must be floating {list(expected)} to match its maps, got {visibility.dtype} "
            f"{list(visibility.shape)}; pass the occlusion head's output, or None for all visible."
        )


class QAConv(nn.Module):
    """Query-adaptive convolution: score pairs of feature maps by the best matches between their cells.

    With unit features, S(s, r) is the cosine of probe cell s and gallery cell r. Every probe cell takes the max over r,
    every gallery cell the max over s; these 2 * h * w best matches make the score:

    - "bn_fc" (published v1.3; `bn`, `fc`, `logit_bn`): batch norm over all matches, one linear layer on either half,
      their sum, batch norm.
    - "weighted" (`cell_weight`, `scale`, `bias`): scale * mean cosine + bias, the mean weighted per cell (softplus of
      `cell_weight`) and by co-visibility. It does not depend on the batch.

    Occlusion methods are defined in `qaconv.occlusion`; neither method lets a score depend on features under a hidden
    cell (visibility 0), and a map with no visible cell scores a constant. All visible (None) equals "none".
    Scores are float32 (float64 for float64 maps), larger = more similar. Cosines are products of float32 cells, but on
    a GPU with Triton under autocast, of whichever dtype: there the unit cells are rounded to float16 (3 bits more than
    bfloat16 keeps), the products summed in float32.

    Args:
        num_features: channels C of the maps.
        height, width: cells of a map.
        occlusion_method: key of OCCLUSION_METHODS.
        score: one of SCORES.
        projection_channels: match in a learned 1x1 projection to so many channels, renormalized per cell. Without it
            the maps are taken as they come: unit length over C is the caller's duty, not checked.
        num_classes: None, or keep a map per class for `class_logits`.
        k_nearest: neighbour classes of `class_logits`, at most num_classes - 1.
        inference_dtype: None, or torch.bfloat16 or torch.float16, in which float32 maps are matched in eval mode while
            gradients are off: unit features and cosines are rounded to it, sums are float32, and so is all from the
            maxima on. Training is never affected. It is for hardware that multiplies it faster (float16 on few CPUs).
        visible_from: of "masking", the least visibility in [0, 1] of a cell that is matched.
    State:
        Only `forward` in training mode moves the running statistics of `bn` and `logit_bn`; `match_pairs` and
        `class_logits` always normalize with them, and so does `forward` while `bn` is in eval mode. Training normalizes
        with the moments of this process's pairs, or with those of all ranks' pairs if told so, while the running
        statistics always follow those of all ranks: under torch.distributed all must call `forward` equally often.
    Reference: Liao, Shao, "Interpretable and Generalizable Person Re-Identification with Query-Adaptive Convolution and
        Temporal Lifting", ECCV 2020, arXiv:1904.10424.
    """

    def __init__(  # noqa: PLR0913  (the matcher's whole public signature)
        self,
        num_features: int,
        height: int,
        width: int,
        occlusion_method: str = "scaling",
        score: str = "bn_fc",
        projection_channels: int | None = None,
        num_classes: int | None = None,
        k_nearest: int = 32,
        inference_dtype: torch.dtype | None = None,
        visible_from: float = VISIBLE_FROM,
    ) -> None:
        super().__init__()
        if occlusion_method not in OCCLUSION_METHODS:
            raise ValueError(
                f"QAConv: occlusion_method must be one of {', '.join(OCCLUSION_METHODS)}, got {occlusion_method!r}."
            )
        if score not in SCORES:
            raise ValueError(f"QAConv: score must be one of {', '.join(SCORES)}, got {score!r}.")
        if inference_dtype not in (None, torch.bfloat16, torch.float16):
            raise ValueError(
                f"QAConv: inference_dtype must be None, torch.bfloat16 or torch.float16, got {inference_dtype}."
            )
        self.map_shape = (num_features, height, width)
        self.occlusion_method, self.visible_from = occlusion_method, visible_from
        self.score = score
        self.inference_dtype = inference_dtype
        self.matched_channels = projection_channels or num_features
        num_cells = height * width
        if score == "bn_fc":
            self.bn = nn.BatchNorm2d(1)
            self.fc = nn.Linear(num_cells, 1)
            self.logit_bn = nn.BatchNorm1d(1)
        else:
            self.cell_weight = nn.Parameter(torch.full((num_cells,), math.log(math.e - 1)))  # softplus gives 1
            self.scale = nn.Parameter(torch.full((1,), _INITIAL_SCALE))
            self.bias = nn.Parameter(torch.zeros(1))
        self.projection: nn.Conv2d | None = None
        if projection_channels is not None:
            self.projection = nn.Conv2d(num_features, projection_channels, kernel_size=1, bias=False)
            nn.init.orthogonal_(self.projection.weight)  # cosines start near those of the maps
        self.class_embeddings: ClassEmbeddings | None = None
        if num_classes is not None:
            k_nearest = min(k_nearest, num_classes - 1)
            self.class_embeddings = ClassEmbeddings(num_classes, self.matched_channels, num_cells, k_nearest)

    def forward(
        self,
        probe: Tensor,
        gallery: Tensor,
        probe_visibility: Tensor | None = None,
        gallery_visibility: Tensor | None = None,
        across_ranks: bool = False,
    ) -> Tensor:
        """Return the score of every probe with every gallery map.

        Passing the same tensors for both sides matches the set against itself in half the time.

        Args:
            probe: [P, C, h, w] floating, unit length over C.
            gallery: [G, C, h, w], likewise.
            probe_visibility: [P, 1, h, w] in [0, 1], 1 = visible; None = all visible.
            gallery_visibility: [G, 1, h, w], likewise.
            across_ranks: in training mode normalize with the moments of the pairs of all ranks, not of this process's.
        Returns:
            [P, G] scores.
        Raises:
            ValueError: if shapes disagree, or in training mode of "bn_fc" with fewer than two pairs, whose variance the
                last norm would need.
        """
        moments: MomentsOf = "running"
        if self.score == "bn_fc" and self.bn.training:
            moments = "ranks" if across_ranks else "batch"
        if moments != "running" and probe.shape[0] * gallery.shape[0] < 2:
            raise ValueError(
                f"QAConv.forward: batch norm needs at least 2 pairs in training mode, got {probe.shape[0]} x "
                f"{gallery.shape[0]}; use a larger batch or call eval()."
            )
        is_self = gallery is probe and gallery_visibility is probe_visibility
        if (probe_visibility is None) != (gallery_visibility is None):
            probe_visibility = _all_visible(probe) if probe_visibility is None else probe_visibility
            gallery_visibility = _all_visible(gallery) if gallery_visibility is None else gallery_visibility
        half = _is_half(probe)
        with torch.autocast(probe.device.type, enabled=False):
            probe_cells = self._cells(probe, probe_visibility, group_dim=0, where="QAConv.forward: probe")
            gallery_cells = probe_cells
            if not is_self:
                gallery_cells = self._cells(gallery, gallery_visibility, group_dim=0, where="QAConv.forward: gallery")
            return self._scores(probe_cells, gallery_cells, half, moments)[0]

    def match_pairs(
        self, a: Tensor, b: Tensor, a_visibility: Tensor | None = None, b_visibility: Tensor | None = None
    ) -> Tensor:
        """Return the score of a[i] with b[i], [N]: the diagonal of `forward` in eval mode, in either mode.

        Args:
            a, b: [N, C, h, w] floating, unit length over C.
            a_visibility, b_visibility: [N, 1, h, w] in [0, 1], 1 = visible; None = all visible.
        Raises:
            ValueError: if shapes disagree.
        """
        half = _is_half(a)
        with torch.autocast(a.device.type, enabled=False):
            cells = self._paired_cells(a, b, a_visibility, b_visibility, where="QAConv.match_pairs")
            return self._scores(*cells, half)[:, 0, 0]

    def best_cells(
        self, a: Tensor, b: Tensor, a_visibility: Tensor | None = None, b_visibility: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the score of a[i] with b[i] is made of: where each cell finds its best match, and its cosine.

        They are what `match_pairs` scores, in the occlusion method of this matcher. No gradient is recorded.

        Args:
            a, b, a_visibility, b_visibility: as of `match_pairs`.
        Returns:
            int64 [N, h*w], the cell of b[i] for each cell of a[i], and the cell of a[i] for each cell of b[i]; floating
            [N, h*w], the cosines of the cells of a[i] with theirs, weighted as the occlusion method says. A cell
            without a match has cosine 0 and cell 0. `mutual_cells` chooses among them.
        Raises:
            ValueError: if shapes disagree.
        """
        with torch.no_grad(), torch.autocast(a.device.type, enabled=False):
            a_cells, b_cells = self._paired_cells(a, b, a_visibility, b_visibility, where="QAConv.best_cells")
            maxima = best_matches(a_cells.maps, b_cells.maps)
        assert maxima.probe_cell is not None and maxima.gallery_cell is not None
        of_a, of_b = (cells[:, 0, :, 0].long() for cells in (maxima.probe_cell, maxima.gallery_cell))
        return of_a, of_b, maxima.probe[:, 0, :, 0]

    def class_logits(self, maps: Tensor, labels: Tensor, visibility: Tensor | None = None) -> Tensor:
        """Return the scores of every map with its own class's map (column 0) and those of the nearest classes.

        The cross entropy with target 0 trains maps and class embeddings. Memory grows with B * (1 + k_nearest) maps; a
        projection keeps them small.

        Args:
            maps: [B, C, h, w] floating, unit length over C.
            labels: [B] int64 in [0, num_classes); the range is checked when the data module is built.
            visibility: [B, 1, h, w] in [0, 1] of the maps; None = all visible. Class maps are visible everywhere.
        Returns:
            [B, 1 + k_nearest] scores, normalized with the running statistics, which stay.
        Raises:
            ValueError: if the class embeddings are off or shapes disagree.
            TypeError: if labels are not int64.
        """
        if self.class_embeddings is None:
            raise ValueError("QAConv.class_logits: class embeddings are off; build QAConv with num_classes.")
        if labels.dtype != torch.int64:
            raise TypeError(
                f"QAConv.class_logits: labels must be int64, got {labels.dtype}; convert them with .long()."
            )
        if labels.shape != maps.shape[:1]:
            raise ValueError(
                f"QAConv.class_logits: labels must be [{maps.shape[0]}], one per map, got {list(labels.shape)}."
            )
        half = _is_half(maps)
        with torch.autocast(maps.device.type, enabled=False):
            cells = self._cells(maps, visibility, group_dim=1, where="QAConv.class_logits: maps")
            classes = self.class_embeddings(labels).to(cells.maps.features.dtype)
            seen = None if visibility is None else classes.new_ones(classes.shape[:3])
            return self._scores(cells, self._occlude(classes, seen), half)[:, 0]

    def set_neighbours(self, kernel: Tensor) -> None:
        """Refresh the nearest classes from the margin head's kernel [D, num_classes]; once per epoch.

        Raises:
            ValueError: if the class embeddings are off or the kernel has another number of classes.
        """
        if self.class_embeddings is None:
            raise ValueError("QAConv.set_neighbours: class embeddings are off; build QAConv with num_classes.")
        self.class_embeddings.set_neighbours(kernel)

    def class_embedding_bytes(self, num_classes: int) -> int:
        """Return the bytes of `num_classes` class maps in float16, without their neighbours."""
        return 2 * num_classes * self.matched_channels * math.prod(self.map_shape[1:])

    def _cells(self, maps: Tensor, visibility: Tensor | None, group_dim: int, where: str) -> Cells:
        """Turn maps [N, C, h, w] into float32 or float64 cells [1, N, h*w, C'] or, for group_dim 1, [N, 1, h*w, C']."""
        _check_maps(maps, visibility, self.map_shape, where)
        maps = at_least_float32(maps)
        if self.projection is not None:
            maps = F.normalize(F.conv2d(maps, self.projection.weight.to(maps.dtype)), dim=1)
        features = maps.flatten(2).transpose(1, 2).contiguous().unsqueeze(group_dim)
        seen = None if visibility is None else visibility.to(maps.dtype).flatten(1).unsqueeze(group_dim)
        return self._occlude(features, seen)

    def _paired_cells(
        self, a: Tensor, b: Tensor, a_visibility: Tensor | None, b_visibility: Tensor | None, where: str
    ) -> tuple[Cells, Cells]:
        """Return the cells [N, 1, h*w, C'] of a[i] and b[i]."""
        if a.shape != b.shape:
            raise ValueError(
                f"{where}: a and b must agree in shape, got {list(a.shape)} and {list(b.shape)}; "
                "for all pairs of two sets call forward."
            )
        if (a_visibility is None) != (b_visibility is None):
            a_visibility = _all_visible(a) if a_visibility is None else a_visibility
            b_visibility = _all_visible(b) if b_visibility is None else b_visibility
        a_cells = self._cells(a, a_visibility, group_dim=1, where=f"{where}: a")
        b_cells = self._cells(b, b_visibility, group_dim=1, where=f"{where}: b")
        return a_cells, b_cells

    def _occlude(self, features: Tensor, visibility: Tensor | None) -> Cells:
        if visibility is None:
            return Cells(Maps(features, None), None)
        return OCCLUSION_METHODS[self.occlusion_method](features, visibility, self.visible_from)

    def _scores(self, probe: Cells, gallery: Cells, half: bool, moments: MomentsOf = "running") -> Tensor:
        """Return [L, P, G]; the same object for both sides is a set against itself."""
        # The cells only say which visibilities a weighted mean has to look up (gradients see to themselves).
        with_cells = self.score == "weighted" and probe.visibility is not None and gallery.visibility is not None
        probe_maps, gallery_maps = self._in_inference_dtype(probe.maps, gallery.maps)
        maxima = best_matches(probe_maps, gallery_maps, with_cells=with_cells, half=half)
        if self.score == "weighted":
            cosine = weighted_scores(maxima, probe, gallery, F.softplus(self.cell_weight))
            return self.scale * cosine + self.bias
        layers = PublishedLayers(self.bn, self.fc, self.logit_bn)
        return published_scores(maxima, probe, gallery, layers, moments)

    def _in_inference_dtype(self, probe: Maps, gallery: Maps) -> tuple[Maps, Maps]:
        dtype = self.inference_dtype
        is_training = self.training or torch.is_grad_enabled()
        if dtype is None or is_training or probe.features.dtype != torch.float32:
            return probe, gallery
        lower = probe._replace(features=probe.features.to(dtype))
        return lower, lower if gallery is probe else gallery._replace(features=gallery.features.to(dtype))


def mutual_cells(of_a: Tensor, of_b: Tensor, cosines: Tensor, most: int) -> list[tuple[int, int, float]]:
    """Return (cell of a, cell of b, cosine) of the cells that are each other's best match, the most alike first.

    Args:
        of_a, of_b, cosines: [h*w] each, of one pair, as `QAConv.best_cells` gives them; no cosine at or below 0 counts.
        most: pairs of cells, at most.
    """
    there, back, values = of_a.tolist(), of_b.tolist(), cosines.tolist()
    found = [cell for cell, value in enumerate(values) if value > 0 and back[there[cell]] == cell]
    found.sort(key=lambda cell: -values[cell])
    return [(cell, there[cell], values[cell]) for cell in found[:most]]


def _is_half(maps: Tensor) -> bool:
    return maps.is_cuda and torch.is_autocast_enabled("cuda")


def _all_visible(maps: Tensor) -> Tensor:
    return maps.new_ones(maps.shape[0], 1, *maps.shape[2:])
