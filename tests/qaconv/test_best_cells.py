"""Which cells a score is made of, against loops over cells."""

import pytest
import torch
import torch.nn.functional as F

from qaconv import QAConv, mutual_cells


def maps(num, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(num, 8, 3, 2, generator=generator), dim=1)


@pytest.mark.parametrize("method", ["none", "scaling", "masking"])
@pytest.mark.parametrize("channels", [None, 4])
def test_best_cells_are_those_that_loops_find(method, channels):
    torch.manual_seed(0)
    matcher = QAConv(8, 3, 2, method, projection_channels=channels).eval()
    a, b = maps(4, 1), maps(4, 2)
    seen_a, seen_b = (torch.rand(4, 1, 3, 2, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4))
    of_a, of_b, cosines = matcher.best_cells(a, b, seen_a, seen_b)
    projected = [m if channels is None else F.normalize(matcher.projection(m), dim=1) for m in (a, b)]
    for pair in range(4):
        x, y = (side[pair].flatten(1).T for side in projected)
        v, w = seen_a[pair].flatten(), seen_b[pair].flatten()
        table = x @ y.T
        if method == "scaling":
            table = table * v[:, None] * w
        hidden = [(side < 0.5) & (method == "masking") for side in (v, w)]
        table[hidden[0]] = table[:, hidden[1]] = -9.0
        for found, values, is_hidden in ((of_a[pair], table, hidden[0]), (of_b[pair], table.T, hidden[1])):
            for cell in range(6):
                expected = 0 if is_hidden[cell] or values[cell].max() == -9.0 else int(values[cell].argmax())
                assert found[cell] == expected
        best = torch.where(table.max(1).values == -9.0, 0.0, table.max(1).values)
        torch.testing.assert_close(cosines[pair], best, rtol=0, atol=1e-6)


def test_one_visibility_counts_the_other_face_as_visible_and_no_graph_is_kept():
    matcher, a, b = QAConv(8, 3, 2, "masking", score="weighted"), maps(2, 1), maps(2, 2)
    seen = torch.rand(2, 1, 3, 2, generator=torch.Generator().manual_seed(3))
    found = matcher.best_cells(a.requires_grad_(), b, seen)
    assert not found[2].requires_grad
    for one, both in zip(found, matcher.best_cells(a, b, seen, torch.ones_like(seen)), strict=True):
        assert torch.equal(one, both)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"QAConv\.best_cells: a and b must agree in shape"):
        QAConv(8, 3, 2).best_cells(maps(2, 0), maps(1, 0))
    with pytest.raises(ValueError, match=r"QAConv\.best_cells: a must be floating"):
        QAConv(8, 2, 3).best_cells(maps(2, 0), maps(2, 0))


def test_mutual_cells_are_each_others_best_and_come_best_first():
    of_a, of_b = torch.tensor([1, 0, 2, 2]), torch.tensor([1, 0, 3, 1])
    cosines = torch.tensor([0.5, 0.75, 0.875, -0.25])
    assert mutual_cells(of_a, of_b, cosines, most=8) == [(1, 0, 0.75), (0, 1, 0.5)]  # 3 and 2 are mutual, not alike
    assert mutual_cells(of_a, of_b, cosines, most=1) == [(1, 0, 0.75)]
