"""Galleries of drawn people, for tests of what they answer and of their files."""

import numpy as np


def same(first, second, tolerance=1e-3):
    left, right = first._templates, second._templates
    np.testing.assert_allclose(left.embedding, right.embedding, atol=1e-5)
    for a, b in zip(left.views, right.views, strict=True):
        np.testing.assert_allclose(a.maps.astype(float), b.maps.astype(float), atol=tolerance)
        np.testing.assert_allclose(a.visibility, b.visibility, atol=1e-5)
