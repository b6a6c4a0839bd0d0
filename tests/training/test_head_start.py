"""What the margin head of a run begins with when the backbone is loaded."""

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from short_runs import build, on_two_ranks

from config import Config
from transforms import to_tensor

OPTIONS = {"qaconv_loss_weight": 0.0, "occlusion_loss_weight": 0.0, "occlusion_method": "none"}


class Beginning(Callback):
    """Keep the head as the first step finds it."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 0:
            head = module.head.margin if hasattr(module.head, "margin") else module.head
            self.state = {name: value.clone() for name, value in head.state_dict().items()}
            self.weights = module.head.class_weights().clone()
            trainer.should_stop = True


def begun(folder, loaded=("backbone",), **options):
    """Train as if the weights, which the seed draws, had been loaded; return what the head began with."""
    model, datamodule, trainer = build(folder, **OPTIONS, **options)
    model.loaded = loaded
    beginning = Beginning()
    trainer.callbacks += [beginning]
    trainer.fit(model, datamodule=datamodule)
    return beginning, datamodule


def features(data_root, **options):
    """Return features and labels of all training images, one pass at a time, and the drawn class weights."""
    model, datamodule, _ = build(None, **OPTIONS, data_root=data_root, **options)
    data = datamodule.train_dataset
    images = torch.stack([torch.from_numpy(data[place].image) for place in range(len(data))])
    with torch.no_grad():
        return model.model.eval()(to_tensor(images)), torch.as_tensor(data.labels), model.head.class_weights()


def rank_begun(folder, options):
    beginning, _ = begun(folder, **options)
    return {"state": beginning.state, "weights": beginning.weights}


def test_statistics_begin_with_the_norms_of_the_loaded_net(noise_faces, tmp_path):
    found, _ = begun(tmp_path / "loaded", data_root=noise_faces)
    norms = features(noise_faces)[0].norm.clamp(max=100)  # as AdaFace does
    torch.testing.assert_close(found.state["batch_mean"], norms.mean()[None], rtol=1e-5, atol=0)
    torch.testing.assert_close(found.state["batch_std"], norms.std()[None], rtol=1e-4, atol=0)
    for loaded in ((), ("backbone", "head's statistics")):  # drawn weights, or statistics that were loaded as well
        kept, _ = begun(tmp_path / str(len(loaded)), loaded, data_root=noise_faces)
        assert kept.state["batch_mean"] == 20 and kept.state["batch_std"] == 100


@pytest.mark.flag("head_start")
@pytest.mark.parametrize("partial_fc_rate", [0.0, 1.0])
def test_class_weights_begin_as_class_means_of_the_loaded_net(noise_faces, tmp_path, partial_fc_rate):
    options = {"data_root": noise_faces, "head": "arcface", "partial_fc_rate": partial_fc_rate}
    (tmp_path / "w.pt").touch()
    means = {"head_start": "class_means", "start_from_model_statedict": str(tmp_path / "w.pt"), "ema_decay": 0.9}
    found, _ = begun(tmp_path, **options, **means)
    described, labels, _ = features(noise_faces, head="arcface")
    for label in range(int(labels.max()) + 1):
        mean = described.embedding[labels == label].mean(0)
        torch.testing.assert_close(found.weights[:, label], mean / mean.norm(), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_ranks_begin_as_one_does(noise_faces, tmp_path):
    options = {"data_root": noise_faces, "head_start": "class_means", "start_from_model_statedict": "w.pt"}
    alone = rank_begun(tmp_path / "one", options)
    for rank in on_two_ranks(rank_begun, tmp_path / "two", options):
        torch.testing.assert_close(rank, alone, rtol=1e-6, atol=1e-7)


def test_class_means_without_weights_are_refused():
    with pytest.raises(ValueError, match=r"--head_start class_means: .*; give --start_from_model_statedict"):
        Config(head_start="class_means")
    assert Config(head_start="class_means", resume_from_checkpoint="last.ckpt").head_start == "class_means"
