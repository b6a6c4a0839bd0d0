"""Two data sets with labels and a head each: what each head learns from, and what the matcher may not conclude."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from observed import config, fixed_batch
from short_runs import SMALL, build, fit, metrics, on_two_ranks, state, trained_state, write_faces
from torch.nn import functional
from torch.utils.data import DataLoader

from cli import checkpoint_form
from config import Config
from datasets import ImageFolderDataset, MixedView, TrainingView, collate
from datasets.sampling.mixture import MixtureBatchSampler
from datasets.sampling.samplers import PlannedBatches
from engine.files import WriteFailures
from engine.module import Step, TrainingData
from engine.trainer import build_trainer
from tasks.recognition.callbacks import build_callbacks
from tasks.recognition.mixture_picture import MixturePicture
from tasks.recognition.score_matrix import Images, score_batch
from train_val import Recognizer
from transforms import TrainingTransform, to_tensor


def two_headed(**options):
    torch.manual_seed(0)
    model = Recognizer(config(**options).to_dict(), {"0": 8, "1": 5})
    model.trainer = SimpleNamespace(global_step=0, estimated_stepping_batches=9)
    return model.train()


def mixed_batch(ids):
    labels = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    return fixed_batch()._replace(dataset_id=torch.tensor(ids), label=labels)


@pytest.mark.parametrize("head", ["adaface", "arcface", "curricularface", "magface", "subcenter_arcface"])
def test_each_sample_is_judged_by_the_head_of_its_set_and_a_set_weighs_what_is_stated(head):
    batch = mixed_batch([0, 0, 0, 0, 0, 0, 1, 1])
    model, twin = two_headed(head=head), two_headed(head=head)
    model.heads["0"].set_weight, model.heads["1"].set_weight = 0.3, 0.7
    loss = model.forward_terms(batch, Step(0)).losses["head"][1]
    features = twin.model(to_tensor(batch.image))
    losses = []
    for number in (0, 1):
        rows = batch.dataset_id == number
        losses.append(twin.heads[str(number)].loss(_rows(features, rows), batch.label[rows], 0).loss)
    torch.testing.assert_close(loss, 0.3 * losses[0] + 0.7 * losses[1])


def _rows(features, rows):
    return type(features)(*(part[rows] for part in features))


@pytest.mark.parametrize("head", ["adaface", "curricularface", "magface"])
def test_a_set_that_a_batch_does_not_hold_gives_its_head_a_gradient_of_zero_and_no_nan(head):
    model = two_headed(head=head)
    before = {name: buffer.clone() for name, buffer in model.heads["1"].named_buffers()}
    terms = model.forward_terms(mixed_batch([0] * 8), Step(0))
    terms.total().backward()
    assert (model.heads["1"].kernel.grad == 0).all() and (model.heads["0"].kernel.grad != 0).any()
    assert torch.isfinite(terms.total())
    torch.testing.assert_close(dict(model.heads["1"].named_buffers()), before, rtol=0, atol=0)


def test_pairs_from_two_sets_are_neither_positive_nor_negative():
    model = two_headed()
    maps = functional.normalize(torch.randn(8, *model.model.map_shape), dim=1)
    labels, ids = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    matched = score_batch(model.matcher, model.config, Images(maps, None, labels, ids), several_sets=True)
    labels_of_columns, apart = matched.columns
    assert torch.equal(labels_of_columns, labels)
    expected = torch.eye(8, dtype=torch.bool)
    expected[:4, 4:] = expected[4:, :4] = True
    assert torch.equal(apart, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partial_fc_rate": 0.5}, "--partial_fc_rate: the heads of several data sets"),
        ({"class_embeddings": True, "k_nearest": 2}, "--class_embeddings: they know one data set"),
        ({"pairwise_reduction": "row_sum"}, "--pairwise_reduction row_sum counts every pair"),
    ],
)
def test_what_knows_one_set_alone_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        two_headed(**options)


class TwoSets(TrainingData):
    """Web faces and masked faces, three batches' groups from the first for each from the second."""

    def __init__(self, options, folders):
        super().__init__(options)
        self.views = [TrainingView(ImageFolderDataset(folder), TrainingTransform(), seed=1) for folder in folders]

    def build_sampler(self, rank):
        labels = [view.labels for view in self.views]
        return MixtureBatchSampler(labels, self.options.batch_size, [3, 1], 2, self.options.seed, rank)

    def train_dataloader(self):
        return DataLoader(MixedView(self.views), batch_sampler=PlannedBatches(self.train_sampler), collate_fn=collate)


def train(folder, folders, ckpt_path=None):
    folder.mkdir(exist_ok=True)
    options = Config(**{**SMALL, "batch_size": 8, "epochs": 2, "checkpoint_every_n_steps": 1, "heartbeat_seconds": 0.0})
    pl.seed_everything(options.seed, verbose=False)
    model = Recognizer(options.to_dict(), {"0": 6, "1": 5})
    trainer = build_trainer(options, folder)
    trainer.fit(model, TwoSets(options, folders), ckpt_path=ckpt_path, weights_only=True)
    return model, trainer


def test_two_sets_train_with_a_head_each_and_a_resumed_run_ends_with_the_same_bits(tmp_path):
    folders = [
        write_faces(tmp_path / name, identities=n, images=4, pairs=0) / "train" for name, n in (("a", 6), ("b", 5))
    ]
    model, trainer = train(tmp_path / "whole", folders)
    assert trainer.global_step == 10
    rows = metrics(tmp_path / "whole")
    assert all(row["train_head_loss"] > 0 for row in rows if "train_loss" in row)
    assert {"heads.0.kernel", "heads.1.kernel"} <= set(model.state_dict())
    resumed, _ = train(tmp_path / "resumed", folders, ckpt_path=tmp_path / "whole" / "last.ckpt.previous")
    torch.testing.assert_close(state(resumed), state(model), rtol=0, atol=0)


# ---------------------------------------------------------------- --data


@pytest.fixture(scope="module")
def two_folders(tmp_path_factory):
    """People with labels that overlap: 6 in one folder, 5 others in another, benchmarks beside them."""
    folder = tmp_path_factory.mktemp("sets")
    write_faces(folder / "web", identities=6, images=8, pairs=0)
    write_faces(folder / "masked", identities=5, images=4, pairs=0)
    write_faces(folder / "common", identities=6, images=1, pairs=6)
    return folder


def words(folder, *, masked=""):
    return {
        "data": (f"web={folder / 'web'}:3", f"masked={folder / 'masked'},head=cosface{masked}"),
        **{"val_data_path": str(folder / "common"), "batch_size": 16, "epochs": 2, "data_balance": 1.0},
    }


@pytest.mark.flag("data", "data_balance")
def test_each_set_has_a_head_and_options_of_its_own_and_its_share_of_every_batch(two_folders, tmp_path):
    options = words(two_folders, masked=",occlusion_prob=1,occluders=block,loss_weight=0.5")
    model, data, trainer = build(tmp_path, **options)
    assert data.classes == {"web": 6, "masked": 5} and [b.name for b in data.benchmarks] == ["lfw"]
    assert data.shares == pytest.approx({"web": 144 / 164, "masked": 20 / 164})
    assert data.loss_weights == pytest.approx({"web": 0.6372, "masked": 0.3628}, abs=1e-4)
    assert [type(head).__name__ for head in model.heads.values()] == ["AdaFace", "CosFace"]
    batch = next(iter(data.train_dataloader()))
    hidden = (batch.visibility == 0).flatten(1).any(1)
    assert hidden[batch.dataset_id == 1].all() and not hidden[batch.dataset_id == 0].all()
    assert replaced(options, data_balance=0.0)[1].shares == pytest.approx({"web": 0.75, "masked": 0.25})
    trainer.callbacks.append(drawn := Unusual())
    trainer.fit(model, datamodule=data)
    incident = json.loads((tmp_path / "incidents.jsonl").read_text().splitlines()[0])
    assert incident["indices"] == [drawn.batch.index.tolist()] and set(*incident["sets"]) == {"web", "masked"}
    assert [list(data.sets).index(name) for name in incident["sets"][0]] == drawn.batch.dataset_id.tolist()
    row = [row for row in metrics(tmp_path) if "train_loss" in row][-1]
    weighted = [data.loss_weights[name] * row[f"train_head_loss/{name}"] for name in data.sets]
    assert row["train_head_loss"] == pytest.approx(sum(weighted), rel=1e-5) and min(weighted) > 0
    logged = [row for row in metrics(tmp_path) if "train_bits/web" in row][-1]
    assert {"train_bits/masked", "train_bits_fitted/web", "train_bits_fitted/masked"} <= logged.keys()
    drawn = data.train_sampler.drawn(2).tolist()
    assert row["drawn/web"] == pytest.approx(drawn[0] / sum(drawn)) and sum(drawn) == 2 * 16 * len(data.train_sampler)
    assert model.heads["web"].class_shares.tolist() == [1 / 6] * 6


class Unusual(pl.Callback):
    """Make the guard take the loss of the fourth step for an unusual one."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 3:
            module.guard.settle()
            module.guard._losses.extend([1e-9] * 100)
            self.batch = batch


def replaced(options, **changes):
    return build(None, **{**options, **changes})


def test_sets_without_common_benchmarks_hold_out_people_of_their_own(two_folders):
    options = words(two_folders) | {"val_data_path": None, "val_identities": 0.34}
    _, data, _ = replaced(options)
    assert [benchmark.name for benchmark in data.benchmarks] == ["web-own", "masked-own"]
    assert data.classes == {"web": 4, "masked": 3} and data.holds_out


def test_two_ranks_take_the_course_of_one_with_several_sets(two_folders, tmp_path):
    """The mean of a set is over both ranks, of which one may hold few of it."""
    options = {**words(two_folders), "check_mode": True, "epochs": 1}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    of_two = on_two_ranks(trained_state, str(tmp_path / "two"), options)[0]["weights"]
    alone = trained_state(str(tmp_path / "one"), options)["weights"]
    torch.testing.assert_close(of_two, alone, rtol=1e-9, atol=1e-11)
    rows = [metrics(tmp_path / name) for name in ("one", "two")]
    told = [
        [{key: row[key] for key in row if key.startswith(("train_bits", "drawn"))} for row in each] for each in rows
    ]
    assert max(map(len, told[0])) == 6
    for ours, theirs in zip(*told, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9, nan_ok=True)


@pytest.mark.flag("merge_identities")
def test_of_people_in_two_sets_the_matcher_knows_who_is_who(two_folders, tmp_path):
    """web/person_01 and masked/person_04 are one person: their images are a positive pair, and both differ from others
    of either set; of two people of which neither is merged nothing is known."""
    listed = tmp_path / "same.txt"
    listed.write_text("web/person_01 = masked/person_04\n", encoding="utf-8")
    _, data, _ = replaced({**words(two_folders), "merge_identities": str(listed)})
    merged, model = data.merged, two_headed()
    labels, ids = torch.tensor([0, 1, 2, 0, 4, 3]), torch.tensor([0, 0, 0, 1, 1, 1])
    people = merged.people(labels, ids)
    assert people[1] == people[4] and len(set(people.tolist())) == 5
    maps = functional.normalize(torch.randn(6, *model.model.map_shape), dim=1)
    matched = score_batch(model.matcher, model.config, Images(maps, None, people, ids), True, merged)
    known = ~matched.columns.is_self | torch.eye(6, dtype=torch.bool)
    across = known[:3, 3:].tolist()
    assert across == [[False, True, False], [True, True, True], [False, True, False]]
    assert known[:3, :3].all() and known[3:, 3:].all() and torch.equal(known, known.T)
    listed.write_text("web/nobody = masked/person_04\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"--merge_identities: .*same.txt, line 1: data set web has no person 'nobody'"
    ):
        assert data.merged


# ---------------------------------------------------------------- curricula


@pytest.fixture(scope="module")
def gray_and_bright(tmp_path_factory):
    """8 people with 4 images each, of which the first two of each are of high contrast, the others nearly flat."""
    folder = tmp_path_factory.mktemp("contrast")
    rng = np.random.default_rng(0)
    for person in range(8):
        place = folder / "faces" / f"person_{person}"
        place.mkdir(parents=True)
        for number in range(4):
            image = 128 + rng.integers(-100, 100, (112, 112, 3)) * (1 if number < 2 else 0.1)
            cv2.imwrite(str(place / f"{number}.png"), image.clip(0, 255).astype(np.uint8))
    write_faces(folder / "sets", identities=6, images=1, pairs=6)
    return folder


@pytest.mark.flag("curriculum", "curriculum_epochs", "curriculum_floor", "curriculum_gamma", "epoch_share")
def test_a_curriculum_draws_easy_images_first_and_ends_as_the_plain_plan(gray_and_bright):
    options = {
        **{"data_root": str(gray_and_bright / "faces"), "val_data_path": str(gray_and_bright / "sets")},
        **{"sampler": "shuffle", "batch_size": 4, "epoch_share": 0.5, "qaconv_loss_weight": 0.0},
    }
    course = {
        "curriculum": "contrast",
        "curriculum_epochs": (0.0, 2.0),
        "curriculum_floor": 0.0,
        "curriculum_gamma": 8.0,
    }

    def drawn(epoch, **changes):
        sampler = replaced(options, **changes)[1].build_sampler(rank=0)
        sampler.set_epoch(epoch)
        return [index for batch in sampler for index in batch]

    def easy(images):
        return sum(index % 4 < 2 for index in images)

    first = drawn(0, **course)
    assert len(first) == 16 == len(set(first)) and easy(first) >= 15
    assert easy(first) > easy(drawn(1, **course)) and easy(first) > easy(
        drawn(0, **{**course, "curriculum_gamma": 0.01})
    )
    assert easy(first) > easy(drawn(0, **{**course, "curriculum_floor": 1.0}))
    assert drawn(2, **course) == drawn(2)
    assert len(drawn(0, epoch_share=0.25)) == 8


@pytest.mark.flag("difficulty")
def test_a_curriculum_follows_what_a_network_told_of_the_images(gray_and_bright, tmp_path, caplog):
    """The last two images of each person have the lower loss, whatever their contrast."""
    faces = gray_and_bright / "faces"
    names = sorted(str(path.relative_to(faces)) for path in faces.glob("*/*.png"))
    losses = tmp_path / "losses.csv"
    losses.write_text("name,loss\n" + "".join(f"{name},{1 if name[-5] in '01' else 0.5}\n" for name in names))
    course = {"curriculum": "loss", "curriculum_epochs": (0.0, 2.0), "curriculum_floor": 0.0, "curriculum_gamma": 8.0}
    options = {
        **{"val_data_path": str(gray_and_bright / "sets"), "sampler": "shuffle", "batch_size": 4, "epoch_share": 0.5},
        **{"qaconv_loss_weight": 0.0, **course},
    }
    alone = replaced(options, data_root=str(faces), difficulty=str(losses))[1]
    several = replaced(options, data=(f"web={faces},difficulty={losses}", f"own={faces},difficulty={losses}"))[1]
    for data in (alone, several):
        plan = data.build_sampler(rank=0).plan()
        assert (plan % 4 >= 2).mean() > 0.9 and "ease (CRC-32)" in data.facts()
    with pytest.raises(ValueError, match=r"--curriculum loss: --difficulty must say what .* of the set own"):
        replaced(options, data=(f"web={faces},difficulty={losses}", f"own={faces}"))
    with pytest.raises(ValueError, match=r"--difficulty: .*losses.csv: tells nothing of"):
        replaced(options, data_root=str(gray_and_bright / "sets"), difficulty=str(losses), val_data_path=None)
    with pytest.raises(ValueError, match="--difficulty: --curriculum none reads none; there are visible, norm, loss"):
        Config(difficulty="losses.csv")
    with pytest.raises(ValueError, match="--difficulty: with several sets each has its own"):
        Config(data=("web=a", "own=b"), difficulty="x", **course)
    seen, trainer = MixturePicture(None), SimpleNamespace(datamodule=alone, current_epoch=0)
    seen.load_state_dict({"ease": {}, "checksum": 7})
    seen.on_train_start(trainer, None)
    assert "the images are not as hard as they were" in caplog.text
    caplog.clear()
    seen.on_train_start(trainer, None)
    assert not caplog.text and seen.state_dict()["checksum"] == alone.facts()["ease (CRC-32)"]


@pytest.mark.parametrize("ease", [{0: 1.5}, {-1: 0.5}, {0: float("nan")}, {"0": 0.5}, [0.5], {0: "x"}])
def test_the_ease_of_a_hostile_checkpoint_is_refused(ease):
    rule = checkpoint_form._callbacks_rule(Config(monitor="none"), 8, {"epoch": 0, "batches_done": 0})
    assert rule({"MixturePicture": {"ease": {0: 0.5, 1: 0.25}, "checksum": 3}}, "callbacks") is None
    found = rule({"MixturePicture": {"ease": ease}}, "callbacks")
    assert found == "callbacks.MixturePicture.ease: the mean ease of epochs expected, numbers in [0, 1]"


def test_shares_of_sets_move_to_the_final_weights(two_folders):
    options = words(two_folders, masked=",final_weight=6") | {"curriculum_epochs": (0.0, 1.0), "batch_size": 8}
    _, data, _ = replaced(options)
    sampler = data.build_sampler(rank=0)
    shares = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        shares.append(sampler.shares(epoch)[1] / sum(sampler.shares(epoch)))
    assert shares == pytest.approx([20 / 164, 120 / 264], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curriculum": "contrast"}, "--curriculum_epochs 0,0 ends the curriculum before it begins"),
        ({"curriculum": "contrast", "curriculum_epochs": (3.0, 1.0)}, "expected two epochs that rise, as 0,8; got 3,1"),
        ({"epoch_share": 0.5, "sampler": "graph"}, "a curriculum draws images by --sampler pk or shuffle"),
        ({"merge_identities": "same.txt"}, "--merge_identities joins people of several sets"),
    ],
)
def test_curricula_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_the_picture_shows_what_was_planned_and_drawn_and_a_run_that_goes_on_knows_it(gray_and_bright, tmp_path):
    """A set alone has its share of all; the ease of the images drawn falls to that of all images."""
    options = {
        **{"data_root": str(gray_and_bright / "faces"), "val_data_path": str(gray_and_bright / "sets"), "epochs": 3},
        **{"sampler": "shuffle", "batch_size": 8, "epoch_share": 0.5, "qaconv_loss_weight": 0.0},
        **{"curriculum": "contrast", "curriculum_epochs": (0.0, 2.0), "curriculum_floor": 0.0},
    }
    picture = MixturePicture(tmp_path)
    _, data, trainer = fit(tmp_path, picture, **options)
    assert (tmp_path / "mixture.png").read_bytes().startswith(b"\x89PNG")
    ease = picture.state_dict()["ease"]
    assert [*ease] == [0, 1, 2] and ease[0] > 0.55 and data.train_sampler.mean_ease() == pytest.approx(0.5)
    again = MixturePicture(tmp_path)
    again.load_state_dict(picture.state_dict())
    (tmp_path / "mixture.png").unlink()
    again.on_train_start(trainer, None)
    assert again.state_dict()["ease"] == ease and (tmp_path / "mixture.png").exists()
    assert any(isinstance(each, MixturePicture) for each in build_callbacks(Config(**options), None, WriteFailures()))
    plain = {**options, "curriculum": "none", "curriculum_epochs": (0.0, 0.0), "epoch_share": 1.0}
    assert not any(isinstance(each, MixturePicture) for each in build_callbacks(Config(**plain), None, WriteFailures()))
