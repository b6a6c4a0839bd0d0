"""Where cells are matched: against a loop over cells, in every occlusion method."""

import pytest
import torch
import torch.nn.functional as F

from qaconv import OCCLUSION_METHODS, QAConv


@pytest.mark.parametrize("method", OCCLUSION_METHODS)
def test_cells_and_cosines_are_those_of_a_loop(method):
    generator = torch.Generator().manual_seed(0)
    maps = [F.normalize(torch.randn(3, 8, 2, 3, generator=generator), dim=1) for _ in range(2)]
    seen = [torch.rand(3, 1, 2, 3, generator=generator) for _ in range(2)]
    matcher = QAConv(8, 2, 3, occlusion_method=method).eval()
    cells, cosines = matcher.matched_cells(*maps, *seen)
    assert cells.dtype == torch.int64 and cells.shape == cosines.shape == (3, 6)
    for pair in range(3):
        first, second = (each[pair].flatten(1).T for each in maps)
        a, b = (each[pair].flatten() for each in seen)
        for cell in range(6):
            if method == "masking":
                values = [float(first[cell] @ second[r]) if b[r] >= 0.5 else -2 for r in range(6)]
            else:
                weights = a[cell] * b if method == "scaling" else torch.ones(6)
                values = [float(weights[r] * (first[cell] @ second[r])) for r in range(6)]
            if method == "masking" and (a[cell] < 0.5 or max(values) == -2):
                assert (int(cells[pair, cell]), float(cosines[pair, cell])) == (0, 0.0)
            else:
                assert int(cells[pair, cell]) == values.index(max(values))
                assert float(cosines[pair, cell]) == pytest.approx(max(values), abs=1e-5)


def test_maps_of_another_shape_are_refused():
    matcher = QAConv(8, 2, 3)
    with pytest.raises(ValueError, match="must be floating"):
        matcher.matched_cells(torch.zeros(1, 8, 3, 3), torch.zeros(1, 8, 3, 3))
    with pytest.raises(ValueError, match="must agree in shape"):
        matcher.matched_cells(torch.zeros(1, 8, 2, 3), torch.zeros(2, 8, 2, 3))
