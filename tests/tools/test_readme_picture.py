"""The README's picture from a network that was never trained: every occluder, one file, or one line of refusal."""

import cv2
import numpy as np
import pytest
from untrained import write_checkpoint

from tools.drawing.predictions import occluded_faces
from tools.readme_picture import main
from transforms import OCCLUDERS


def test_the_picture_has_a_column_per_occluder_and_fits_a_readme(tmp_path, capsys):
    output = tmp_path / "docs" / "occlusion.png"
    checkpoint = write_checkpoint(tmp_path / "last.ckpt")
    main(["--model-path", str(checkpoint), "--output", str(output)])
    picture = cv2.imread(str(output))
    assert picture.shape[1] >= 112 * len(OCCLUDERS) and picture.shape[0] >= 112 * 3
    assert output.stat().st_size < 400_000
    assert "mean squared error" in capsys.readouterr().out


def test_every_occluder_hides_a_part_of_another_synthetic_face():
    views = occluded_faces(seed=0)
    assert list(views) == list(OCCLUDERS)
    for view in views.values():
        assert 0 < np.mean(view.visibility) < 1
    images = np.stack([view.image for view in views.values()])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_a_model_without_an_occlusion_head_is_refused_in_one_line(tmp_path, capsys):
    path = write_checkpoint(tmp_path / "last.ckpt", occlusion_loss_weight=0.0, occlusion_method="none")
    with pytest.raises(SystemExit, match="2"):
        main(["--model-path", str(path), "--output", str(tmp_path / "picture.png")])
    assert "has no occlusion head" in capsys.readouterr().err
    assert not (tmp_path / "picture.png").exists()
