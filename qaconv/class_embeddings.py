"""One feature map per class, of which a step touches a sample's own class and its nearest neighbours only."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ops import at_least_float32

_COSINE_BYTES = 64 * 2**20  # of the class-to-class cosines held at a time


def nearest_classes(kernel: Tensor, num_neighbours: int) -> Tensor:
    """Return for every class the `num_neighbours` others with the largest cosine, most similar first.

    Args:
        kernel: [D, num_classes] floating, one class per column, of any length.
        num_neighbours: below num_classes.
    Returns:
        [num_classes, num_neighbours] int64; a class is never its own neighbour.
    """
    unit = F.normalize(at_least_float32(kernel.detach()), dim=0)
    num_classes = unit.shape[1]
    step = max(1, _COSINE_BYTES // (4 * num_classes))
    rows = []
    for start in range(0, num_classes, step):
        cosine = unit[:, start : start + step].T @ unit
        own = torch.arange(start, start + cosine.shape[0], device=cosine.device)
        cosine.scatter_(1, own[:, None], -torch.inf)
        rows.append(cosine.topk(num_neighbours, dim=1).indices)
    return torch.cat(rows)


class _Rows(torch.autograd.Function):
    """(weight [N, D], rows [...]) -> at least float32 [..., D]; the weight's gradient is sparse, of the same dtype."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = weight.shape
        return at_least_float32(weight[rows])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        indices, values = rows.reshape(1, -1), grad.reshape(-1, ctx.shape[1])
        return torch.sparse_coo_tensor(indices, values, ctx.shape, check_invariants=False), None


class ClassEmbeddings(nn.Module):
    """Class maps in half precision with a sparse gradient, and a table of each class's nearest neighbours.

    `weight` is float16 [num_classes, num_cells * num_channels], a row holding its map cell by cell; cells are
    normalized, in float32, when they are read. Its gradient is float32 and sparse: whoever updates the rows must round
    them stochastically, else steps below half a digit of float16 are lost (`engine.composite.SparseSGD`). A module
    turned into float64 computes in it; then `weight.grad_dtype` has to become float64 too.
    State: `neighbours` [num_classes, k_nearest] int64, saved; until `set_neighbours` the next classes by number.
    """

    neighbours: Tensor

    def __init__(self, num_classes: int, num_channels: int, num_cells: int, k_nearest: int) -> None:
        super().__init__()
        # Cells start near unit length, so that one step turns them as far as it turns a row of the margin head.
        weight = torch.empty(num_classes, num_cells * num_channels).normal_(std=num_channels**-0.5)
        self.weight = nn.Parameter(weight.half())
        self.weight.grad_dtype = torch.float32
        self.num_cells = num_cells
        following = torch.arange(num_classes)[:, None] + torch.arange(1, k_nearest + 1)
        self.register_buffer("neighbours", following % num_classes)

    def set_neighbours(self, kernel: Tensor) -> None:
        """Refresh the table from the margin head's kernel [D, num_classes]; to be called once per epoch.

        Raises:
            ValueError: if the kernel has another number of classes.
        """
        num_classes = self.weight.shape[0]
        if kernel.ndim != 2 or kernel.shape[1] != num_classes:
            raise ValueError(
                f"ClassEmbeddings.set_neighbours: kernel must be [D, {num_classes}], one class per column, got "
                f"{list(kernel.shape)}; pass head.kernel."
            )
        self.neighbours.copy_(nearest_classes(kernel, self.neighbours.shape[1]))

    def forward(self, labels: Tensor) -> Tensor:
        """Return unit maps [B, 1 + k_nearest, num_cells, num_channels]: own class first, then its neighbours."""
        classes = torch.cat([labels[:, None], self.neighbours[labels]], dim=1)
        rows: Tensor = _Rows.apply(self.weight, classes)
        return F.normalize(rows.unflatten(2, (self.num_cells, -1)), dim=-1)
