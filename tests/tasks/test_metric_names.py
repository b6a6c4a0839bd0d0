"""Names of the metrics of a validation, whatever the sets are called."""

from types import SimpleNamespace

import pytest

from tasks.validation import metrics


@pytest.mark.parametrize("name", ["val", "other"])
def test_a_mean_over_sets_is_not_replaced_by_a_set_that_is_called_like_it(name):
    results = {
        "lfw": {
            condition: {"adaface": SimpleNamespace(accuracy=0.5, cllr=0.25)} for condition in ("clean", "occluded")
        },
        name: {condition: {"adaface": SimpleNamespace(accuracy=1.0, cllr=None)} for condition in ("clean", "occluded")},
    }
    found = metrics(results, "val")
    assert found["val_acc"] == found["val_adaface_acc"] == found["val_occluded_adaface_acc"] == 0.75
    assert found["lfw_occluded_adaface_acc"] == 0.5 and found[f"{name}_clean_adaface_acc"] == 1.0
    assert found["val_lfw_cllr"] == 0.25 and f"val_{name}_cllr" not in found
