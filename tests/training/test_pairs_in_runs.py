"""Two views of each face, at a high and a low resolution, in the training of a recognizer."""

import copy
import shutil
from dataclasses import replace
from types import SimpleNamespace

import cv2
import pytest
import torch
from observed import NUM_PEOPLE, fixed_batch, recognizer
from observed import training_batch as batch_of
from short_runs import SMALL, build, fit, metrics, on_two_ranks, state, trained_state, write_pairs

import losses
import nets
from cli.checkpoint_form import run_fault
from cli.checkpoints import OtherDataError, check_data, read_to_resume
from cli.refusals import check_monitor, check_override
from config import Config
from engine.callbacks import Patience
from engine.module import Step
from evaluation import paired_views
from options import names
from tasks.recognition.memory import plan_memory
from tasks.recognition.paired_nets import PairedNetsOfRun, Teacher, teacher_fault
from tasks.recognition.paired_watch import PairedWatch, unhelped, watch_names
from tasks.recognition.terms import images_of
from transforms import DEGRADATIONS, to_tensor

RUN = {"degradation": "first_order", "degradation_side": 16, "val_identities": 0.25, "qaconv_loss_weight": 0.0}
TAUGHT = {"teacher_weight": 1.0, "remember_weight": 0.5, "start_from_model_statedict": "not read by a Recognizer"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pairs of files: hr, lr of 16 pixels and the same, enlarged, as `sr`."""
    root = write_pairs(tmp_path_factory.mktemp("pairs"))
    for path in sorted((root / "lr").rglob("*.png")):
        larger = root / "sr" / path.relative_to(root / "lr")
        larger.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(larger), cv2.resize(cv2.imread(str(path)), (48, 48), interpolation=cv2.INTER_CUBIC))
    return root


def views_batch():
    """A batch whose second view is another image of its row."""
    batch = fixed_batch()
    return batch._replace(second=batch._replace(image=batch.image.flip(0).contiguous(), side=batch.index))


def step_of(batch=None, sets=("0",), **options):
    """Return (losses by name, model, features of HR and of LR by an equal model, teacher's embeddings)."""
    options = {"degradation": "first_order", "occlusion_loss_weight": 0.0, "occlusion_method": "none", **options}
    batch = batch or views_batch()
    model, twin = recognizer(sets=sets, **options), recognizer(sets=sets, **options)
    teacher = Teacher.frozen("ir_tiny", copy.deepcopy(recognizer().model))
    torch.nn.init.normal_(next(p for p in teacher.backbone.parameters() if p.ndim > 1))
    for name in sets:
        drawn = torch.randn(NUM_PEOPLE, teacher.backbone.embedding_size)
        teacher.centers[name] = torch.nn.functional.normalize(drawn, dim=1)
    model.beside.teacher = teacher
    terms = model.train().forward_terms(batch, Step(0))
    both = torch.cat([to_tensor(batch.image), to_tensor(batch.second.image)])
    features = twin.train().model(both)
    hr, lr = (nets.Features(*(part[rows] for part in features)) for rows in (slice(8), slice(8, None)))
    taught = teacher.embed(to_tensor(batch.image))
    centers = teacher.centers
    return SimpleNamespace(
        terms=terms, model=model, twin=twin, hr=hr, lr=lr, taught=taught, batch=batch, centers=centers
    )


def divergence(head, lr, taught, centers, temperature):
    """Return T^2 KL(teacher || student) of each image, [B]."""
    cosines = lr @ torch.nn.functional.normalize(head.kernel, dim=0)
    ours, theirs = (torch.softmax(head.s * each / temperature, dim=1) for each in (cosines, taught @ centers.T))
    return temperature**2 * (theirs * (theirs / ours).log()).sum(dim=1)


@pytest.mark.flag("pairs", "partner")
@pytest.mark.parametrize(("partner", "side"), [("lr", 16), ("sr", 48)])
def test_pairs_of_files_come_as_two_views(folders, partner, side):
    batch = batch_of(pairs=str(folders), partner=partner, val_identities=0.25)
    assert batch.image.shape == batch.second.image.shape == (8, 112, 112, 3)
    assert (batch.second.side == side).all() and torch.equal(batch.label, batch.second.label)
    by_set = batch_of(data=(f"cameras={folders},data_format=pairs,partner={partner}",), val_identities=0.25)
    assert torch.equal(by_set.second.image, batch.second.image)


@pytest.mark.flag("degradation", "degradation_side")
def test_a_degradation_makes_the_second_view(folders):
    options = {"train_data_path": str(folders / "hr"), "val_identities": 0.25}
    first, second = (
        batch_of(**options, degradation=name, degradation_side=16) for name in ("first_order", "second_order")
    )
    assert torch.equal(first.image, second.image) and not torch.equal(first.second.image, second.second.image)
    assert (first.second.side == 16).all()
    assert len(set(batch_of(**options, degradation="first_order").second.side.tolist())) > 1
    assert batch_of(**options).second is None
    assert set(names.DEGRADATIONS) == set(DEGRADATIONS)


@pytest.mark.flag("front", "front_size")
def test_a_front_enlarges_low_resolution_images_on_the_device(folders, tmp_path):
    torch.manual_seed(5)
    net = nets.FRONTS["espcn"]()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(net.state_dict(), tmp_path / "front.pt")
    options = {"train_data_path": str(folders / "hr"), **RUN}
    model, data, trainer = build(tmp_path, **options, front=str(tmp_path / "front.pt"), front_size=24)
    callback = next(each for each in trainer.callbacks if isinstance(each, PairedNetsOfRun))
    callback.on_fit_start(trainer, model)
    batch = next(iter(data.train_dataloader()))
    assert batch.second.image.shape == (16, 24, 24, 3)
    images = images_of(batch, model.beside.enlarged)
    with torch.no_grad():
        expected = net.eval()(to_tensor(batch.second.image).add(1).div(2)) * 2 - 1
    torch.testing.assert_close(images[16:], expected, atol=1e-5, rtol=0)
    assert "front" not in " ".join(model.state_dict())
    bicubic = build(None, **options, front="bicubic")[1]
    assert next(iter(bicubic.train_dataloader())).second.image.shape[1] == 16  # the side of the degradation
    with pytest.raises((ValueError, FileNotFoundError), match=r"nothing\.pt"):
        build(None, **options, front=str(tmp_path / "nothing.pt"))


@pytest.mark.flag(
    "teacher_weight", "remember_weight", "relation_weight", "paired_weight", "info_nce_weight", "supcon_weight",
    "info_nce_temperature", "classifier_weight", "classifier_temperature",
)  # fmt: skip
def test_each_term_is_its_loss_of_the_views_and_weighs_what_is_stated():
    weights = {
        **{"teacher": 0.9, "remember": 0.5, "relation": 0.7, "paired": 0.3, "info_nce": 0.2, "supcon": 0.1},
        "classifier": 0.4,
    }
    given = {f"{name}_weight": weight for name, weight in weights.items()}
    seen = step_of(
        **given, teacher="t.pt", info_nce_temperature=0.2, classifier_temperature=8.0, qaconv_loss_weight=0.0
    )
    hr, lr, taught, labels = seen.hr.embedding, seen.lr.embedding, seen.taught, seen.batch.label
    expected = {
        "teacher": losses.paired_cosine(lr, taught),
        "remember": losses.paired_cosine(hr, taught),
        "relation": losses.relation_distillation(lr, taught),
        "classifier": divergence(seen.twin.head, lr, taught, seen.centers["0"], 8.0).mean(),
        "paired": losses.paired_cosine(lr, hr),
        "info_nce": losses.info_nce(lr, hr, 0.2, labels),
        "supcon": losses.supervised_contrastive(lr, hr, labels, 0.2),
    }
    assert set(seen.terms.losses) == {"head", *weights}
    for name, loss in expected.items():
        weight, found = seen.terms.losses[name]
        assert weight == weights[name]
        torch.testing.assert_close(found, loss)
    assert set(step_of(qaconv_loss_weight=0.0).terms.losses) == {"head"}


def test_the_classifier_of_each_set_is_taught_by_the_centers_of_the_set():
    batch = views_batch()
    batch = batch._replace(dataset_id=torch.tensor([0, 1, 0, 0, 1, 0, 0, 0]))
    data = ("a=x,degradation=first_order", "b=y,degradation=first_order")
    options = {"degradation": None, "data": data, "teacher": "t.pt", "classifier_weight": 1.0}
    seen = step_of(batch, ("a", "b"), **options, qaconv_loss_weight=0.0, adaface_loss_weight=0.0)
    rows = [batch.dataset_id == number for number in range(2)]
    parts = [
        divergence(seen.twin.heads[name], seen.lr.embedding[of], seen.taught[of], seen.centers[name], 4.0)
        for name, of in zip(("a", "b"), rows, strict=True)
    ]
    torch.testing.assert_close(seen.terms.losses["classifier"][1], torch.cat(parts).mean())
    seen.terms.total().backward()
    assert all(head.kernel.grad.any() for head in seen.model.heads.values())


@pytest.mark.flag("head_views")
@pytest.mark.parametrize("views", ["lr", "hr", "both"])
def test_the_head_judges_the_views_that_are_named(views):
    seen = step_of(head_views=views, qaconv_loss_weight=0.0, head="arcface")
    both = nets.Features(*(torch.cat(parts) for parts in zip(seen.hr, seen.lr, strict=True)))
    features = {"lr": seen.lr, "hr": seen.hr, "both": both}[views]
    labels = seen.batch.label.repeat(2 if views == "both" else 1)
    torch.testing.assert_close(seen.terms.losses["head"][1], seen.twin.head.loss(features, labels, 0).loss)


@pytest.mark.flag("both_gradients")
def test_the_high_resolution_side_of_the_paired_cosine_stands_still_unless_asked_for():
    def gradient(**options):
        seen = step_of(paired_weight=1.0, adaface_loss_weight=0.0, qaconv_loss_weight=0.0, **options)
        seen.terms.total().backward()
        return seen.model.model, seen

    alone, both = gradient()[0], gradient(both_gradients=True)[0]
    weights = [next(p for p in model.parameters() if p.ndim > 1).grad for model in (alone, both)]
    assert not torch.allclose(*weights)
    twin = gradient()[1]
    losses.paired_cosine(twin.lr.embedding, twin.hr.embedding.detach()).backward()
    torch.testing.assert_close(next(p for p in twin.twin.model.parameters() if p.ndim > 1).grad, weights[0])


def test_the_matcher_compares_low_resolution_rows_with_high_resolution_columns():
    seen = step_of(qaconv_loss_weight=1.0, triplet_weight=0.0)
    maps = [torch.nn.functional.normalize(part.feature_map, dim=1) for part in (seen.lr, seen.hr)]
    scores = seen.twin.matcher(*maps, None, None)
    values = losses.PAIRWISE_REDUCTIONS["ranking"](scores, seen.batch.label)
    expected = losses.mean_over_valid(values, losses.valid_rows(seen.batch.label))
    torch.testing.assert_close(seen.terms.losses["pairwise"][1], expected)


@pytest.mark.flag("teacher")
def test_the_teacher_is_the_start_or_a_file_and_stays_what_it_was_in_a_run_that_goes_on(folders, tmp_path):
    torch.manual_seed(9)
    other = nets.build_model("mobilefacenet", 16)
    torch.save({"state_dict": other.state_dict(), "color_space": "rgb"}, tmp_path / "t.pt")
    options = {**RUN, "train_data_path": str(folders / "hr"), "batch_size": 8, "epochs": 2, **TAUGHT}
    options |= {"teacher": str(tmp_path / "t.pt"), "color_space": "rgb", "checkpoint_every_n_steps": 1}
    options |= {"classifier_weight": 0.5}
    model, data, _ = fit(tmp_path / "whole", **options)
    expected = other.state_dict()
    assert model.beside.teacher.arch == "mobilefacenet"
    torch.testing.assert_close(model.beside.teacher.backbone.state_dict(), expected, rtol=0, atol=0)
    assert not any(name.startswith(("beside", "teacher")) for name in model.state_dict())
    checkpoint = read_to_resume(tmp_path / "whole" / "last.ckpt.previous")
    torch.testing.assert_close(checkpoint["teacher"]["weights"], expected, rtol=0, atol=0)
    torch.save(
        {"state_dict": nets.build_model("mobilefacenet", 16).state_dict(), "color_space": "rgb"}, tmp_path / "t.pt"
    )
    with torch.no_grad():
        images = torch.stack([torch.from_numpy(image.image) for image in data.train_dataset])
        described = other.eval()(to_tensor(images)).embedding
    labels = torch.as_tensor(data.train_dataset.labels)
    means = torch.stack([described[labels == label].mean(0) for label in range(data.num_classes)])
    centers = torch.nn.functional.normalize(means, dim=1)
    torch.testing.assert_close(checkpoint["teacher"]["centers"], {"0": centers}, rtol=0, atol=1e-5)
    resumed, _, _ = fit(tmp_path / "resumed", ckpt_path=tmp_path / "whole" / "last.ckpt.previous", **options)
    torch.testing.assert_close(state(resumed), state(model), rtol=0, atol=0)
    checkpoint["teacher"]["centers"]["0"] = centers[:3]
    assert run_fault(checkpoint, model).startswith("teacher.centers")
    checkpoint["teacher"]["weights"].popitem()
    assert run_fault(checkpoint, model).startswith("teacher.weights")
    assert "architecture" in teacher_fault({"arch": "x", "embedding_size": 16, "weights": {}}, "teacher")


def test_a_teacher_from_a_checkpoint_lies_in_memory_as_the_first_so_that_it_rounds_alike():
    first = Teacher.frozen("ir_tiny", copy.deepcopy(recognizer().model))
    again = Teacher.from_dict(first.to_dict())
    strides = [[weight.stride() for weight in each.backbone.parameters()] for each in (first, again)]
    assert strides[0] == strides[1]


def test_a_run_goes_on_behind_its_own_front_and_gets_no_teacher_later(folders, tmp_path):
    torch.manual_seed(5)
    for name in ("a", "b"):
        net = nets.FRONTS["srcnn"]()
        torch.nn.init.normal_(next(net.parameters()), std=0.01)
        torch.save(net.state_dict(), tmp_path / f"{name}.pt")
    options = {**RUN, "train_data_path": str(folders / "hr"), "front": str(tmp_path / "a.pt")}
    model, data, _ = fit(tmp_path, **options)
    checkpoint = read_to_resume(tmp_path / "last.ckpt")
    check_data("last.ckpt", checkpoint, data)
    data.options = replace(model.config, front=str(tmp_path / "b.pt"))
    with pytest.raises(OtherDataError, match=r"last\.ckpt: was trained behind another --front than .*b\.pt"):
        check_data("last.ckpt", checkpoint, data)
    changed = replace(model.config, override=("teacher_weight=1",), teacher_weight=1.0, teacher="t.pt")
    with pytest.raises(ValueError, match=r"--override teacher_weight.*holds no teacher"):
        check_override(changed, model.config, checkpoint)


def test_without_a_file_the_network_that_the_run_starts_with_teaches(folders, tmp_path):
    options = {**RUN, "train_data_path": str(folders / "hr"), **TAUGHT, "test_run": True}
    model, _, _ = build(tmp_path, **options)
    expected = state(model.model)
    model, _, _ = fit(tmp_path, **options)
    teacher = model.beside.teacher.backbone
    torch.testing.assert_close(teacher.state_dict(), expected, rtol=0, atol=0)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    changed = [not torch.equal(value, expected[name]) for name, value in model.model.state_dict().items()]
    assert any(changed)


@pytest.mark.slow
def test_two_ranks_take_the_course_of_one_with_two_views(folders, tmp_path):
    options = {**RUN, "train_data_path": str(folders / "hr"), **TAUGHT, "check_mode": True, "qaconv_loss_weight": 0.7}
    options |= {"info_nce_weight": 0.2, "supcon_weight": 0.1, "relation_weight": 0.5, "paired_weight": 0.3}
    options |= {"classifier_weight": 0.4}
    of_two = on_two_ranks(trained_state, str(tmp_path / "two"), options)[0]["weights"]
    alone = trained_state(str(tmp_path / "one"), options)["weights"]
    torch.testing.assert_close(of_two, alone, rtol=1e-9, atol=1e-11)
    seen = [
        [{k: v for k, v in row.items() if k.startswith("val_lr_hr")} for row in metrics(tmp_path / name)]
        for name in ("two", "one")
    ]
    assert seen[0] == [pytest.approx(row, abs=1e-9) for row in seen[1]] and any(seen[1])


def test_a_damaged_low_resolution_file_says_its_reason(folders, tmp_path):
    root = tmp_path / "pairs"
    shutil.copytree(folders, root)
    damaged = root / "lr" / "person_03" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    _, data, _ = build(None, pairs=str(root), partner="lr", val_identities=0.0, val_data_path=str(root / "hr"))
    for batch in data.train_dataloader():
        data.on_before_batch_transfer(batch, 0)
    ((path, reason),) = data.unreadable.items()
    assert path.endswith("hr/person_03/1.png") and reason.startswith(str(damaged))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "a", "degradation": "first_order"}, "--degradation first_order conflicts with pairs of files"),
        ({"pairs": "a", "data_root": "b"}, "--data_root conflicts with --pairs"),
        ({"pairs": "a", "align": "yes"}, "--align yes would move the HR image"),
        ({"partner": "lr"}, "--partner lr belongs to --pairs"),
        ({"degradation_side": 16}, "--degradation_side 16 belongs to --degradation"),
        ({"degradation": "first_order", "low_res_augmentation_prob": 0.2}, r"--low_res_augmentation_prob 0\.2 would"),
        ({"paired_weight": 1.0}, "--paired_weight belongs to pairs of views"),
        ({"head_views": "both"}, "--head_views belongs to pairs of views"),
        ({"degradation": "first_order", "teacher_weight": 1.0}, "need trained weights to learn from"),
        ({"degradation": "first_order", "teacher": "t.pt"}, "--teacher teaches nothing"),
        ({"partial_fc_rate": 1.0, "classifier_weight": 1.0}, "--classifier_weight compares all classes"),
        ({"degradation": "first_order", "both_gradients": True}, "--both_gradients belongs to --paired_weight"),
        ({"degradation": "first_order", "front": "bicubic"}, "give --front_size"),
        ({"degradation": "first_order", "front_size": 16}, "--front_size 16 belongs to --front"),
        ({"data": ("a=x,degradation=first_order", "b=y")}, "--data b: has no views at a low resolution"),
    ],
)
def test_options_that_contradict_each_other_are_refused_in_a_line(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**{**SMALL, **options})


# ---------------------------------------------------------------- watching


def test_every_validation_compares_both_resolutions_of_people_held_out(folders, tmp_path, caplog):
    options = {**RUN, "train_data_path": str(folders / "hr"), "monitor": "val_lr_hr_auc"}
    model, data, trainer = build(tmp_path, **options)
    check_monitor(model.config, data, has_matcher=False)
    with pytest.raises(ValueError, match=r"--monitor: no metric will be called 'nothing'.*val_lr_hr_auc"):
        check_monitor(replace(model.config, monitor="nothing"), data, has_matcher=False)
    caplog.set_level("WARNING")
    check_monitor(replace(model.config, monitor="val_paired_mean"), data, has_matcher=False)
    assert "rises when all embeddings collapse" in caplog.text
    trainer.fit(model, datamodule=data)
    rows = [row for row in metrics(tmp_path) if "val_lr_hr_auc" in row]
    assert [row["step"] for row in rows] == [0, trainer.global_step]
    views = data.watched["0"]
    assert set(views.labels.tolist()) == {0, 1} and data.classes == {"0": 6}
    with torch.inference_mode():
        hr, lr = (
            model.eval().model(to_tensor(torch.from_numpy(images))).embedding.numpy() for images in (views.hr, views.lr)
        )
    expected = {
        name: value for name, value in paired_views(hr, lr, views.labels).figures().items() if value is not None
    }
    for name, value in expected.items():
        assert rows[-1][f"val_{name}"] == pytest.approx(value, abs=1e-5), name
    assert {f"val_{name}" for name in expected} == set(watch_names(data.watched))
    assert trainer.checkpoint_callback.best_model_score == pytest.approx(expected["lr_hr_auc"])


def test_the_memory_of_a_rank_has_the_second_view_and_the_teacher(tmp_path):
    def plan(**options):
        config = Config(**{**SMALL, **options})
        return plan_memory(config, nets.build_model("ir_tiny", 16), None, 100, num_ranks=2)

    alone = plan()
    assert "views" not in alone and "teacher" not in alone
    views = {"degradation": "first_order", "head_views": "both"}
    pixels = 2 * 8 * 3 * 112 * 112 * 4
    assert f"two views: 16 images a step go through the network, pixels {pixels / 2**20:.1f} MiB" in plan(**views)
    assert f"logits of a batch and their gradient {2 * 4 * 16 * 100 / 2**20:.1f} MiB" in plan(**views)
    size = sum(p.numel() for p in nets.build_model("ir_tiny", 16).parameters()) * 4
    assert f"teacher {size / 2**20:.1f} MiB, without gradient" in plan(**views, **TAUGHT)
    (tmp_path / "t.pt").write_bytes(bytes(3 * 2**20))
    taught = plan(**views, classifier_weight=1.0, teacher=str(tmp_path / "t.pt"))
    assert "teacher 3.0 MiB" in taught and "its classifier about " in taught


def test_a_training_that_gains_nothing_is_told(caplog):
    watch = PairedWatch()
    watch.load_state_dict({"areas": {"0": [0.9, 0.8], "other": [0.9, 0.95]}})
    watch.on_train_end(None, None)
    assert "val_lr_hr_auc: the training did not help" in caplog.text and "other" not in caplog.text
    patient = Patience("val_acc", 1)
    patient.load_state_dict({"best": 0.7, "best_step": 0, "waited": 1})
    found = unhelped(SimpleNamespace(callbacks=[watch, patient, Patience("val_other", 1)]))
    assert found == {"val_lr_hr_auc": 0.9, "val_acc": 0.7}


def test_people_of_a_folder_of_pairs_are_watched(folders):
    _, data, _ = build(None, pairs=str(folders), partner="lr", val_data_path=str(folders))
    assert data.watched["0"].lr.shape == (32, 112, 112, 3) and len(data.benchmarks) == 1
    assert data.classes == {"0": 8}
