"""Every flag does something: for each a test of what it changes, beyond the value that is parsed.

EFFECTS and EVALUATION_EFFECTS name that test: a function of this file, or `path::function`.
"""

import ast
import logging
import tempfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.strategies import DDPStrategy
from untrained import SMALL as SMALL_NET
from untrained import write_checkpoint

import config as names
import data
import folder_evaluation
import heads
import losses
import training
from checkpoints import load_pretrained_model
from config import EPOCH_UNITS, HEADS, OCCLUSION_METHODS, PAIRWISE_REDUCTIONS, Config, EvaluationConfig, get_args
from data import FaceDataModule
from datasets import Benchmark, ImageFolderDataset, Sample, save_benchmark, write_faces
from devices import local_ranks, uses_gpu
from guard import NonFiniteError
from train_val import MAIN_DATASET, Recognizer
from trainer import build_trainer

ROOT = Path(__file__).resolve().parent.parent
RUNS, OPTIONS = "tests/cli/test_training_runs.py", "tests/cli/test_run_options.py"
WANDB = "tests/callbacks/test_wandb_run.py"
RESUME = "tests/training/test_exact_resume.py"
DATA = "tests/training/test_face_data.py"
NUM_PEOPLE, NUM_IMAGES = 8, 6

EFFECTS = {
    "data_root": "test_paths_choose_the_training_faces_and_the_benchmarks",
    "train_data_path": "test_paths_choose_the_training_faces_and_the_benchmarks",
    "val_data_path": "test_paths_choose_the_training_faces_and_the_benchmarks",
    "swap_color_channel": f"{OPTIONS}::test_swap_color_channel_makes_training_and_validation_images_rgb",
    "follow_links": "test_follow_links_trains_on_identities_that_links_lead_to",
    "use_mxrecord": "test_use_mxrecord_trains_on_a_record_file",
    "train_data_subset": "test_train_data_subset_keeps_the_listed_images_of_identities_with_five",
    "max_bad_fraction": f"{DATA}::test_more_unreadable_images_than_max_bad_fraction_stop_the_run",
    "custom_num_class": "test_custom_num_class_must_be_the_number_of_training_identities",
    "val_identities": "test_val_identities_is_the_share_held_out",
    "synthetic_identities": "test_synthetic_sizes_reach_the_renderer",
    "synthetic_images": "test_synthetic_sizes_reach_the_renderer",
    "epochs": "test_trainer_settings",
    "batch_size": "test_batch_size_is_that_of_the_training_batches",
    "lr": "test_lr_is_the_rate_of_the_first_step",
    "lr_milestones": "test_milestones_and_gamma_step_the_rate",
    "lr_gamma": "test_milestones_and_gamma_step_the_rate",
    "momentum": "test_optimizer_options_reach_the_optimizer",
    "weight_decay": "test_optimizer_options_reach_the_optimizer",
    "accumulate_grad_batches": "test_trainer_settings",
    "gradient_clip_val": "test_gradient_clip_val_bounds_the_gradient",
    "ema_decay": "tests/training/test_weight_average_in_runs.py::"
    "test_ema_decay_averages_the_weights_after_each_update_and_validates_the_average",
    "warmup_steps": "test_warmup_steps_raise_the_rate",
    "seed": "test_seed_decides_weights_batches_and_held_out_identities",
    "val_check_interval": f"{OPTIONS}::test_val_check_interval_validates_within_the_epoch",
    "check_val_every_n_epoch": "test_trainer_settings",
    "sampler": "tests/training/test_graph_runs.py::test_sampler_graph_trains_on_neighbours_from_the_second_epoch_on",
    "epoch_by": "test_epoch_by_decides_the_length_of_an_epoch",
    "optimizer": "test_optimizer_options_reach_the_optimizer",
    "lr_schedule": "test_lr_schedule_is_the_shape_of_the_rate",
    "margin_warmup_epochs": "test_margin_warmup_epochs_shrink_the_margin_at_first",
    "checkpoint_every_n_steps": f"{RESUME}::"
    "test_checkpoint_every_n_steps_writes_within_the_epoch_and_keeps_the_one_before",
    "keep_every_n_epochs": f"{RESUME}::test_keep_every_n_epochs_keeps_these_for_good",
    "on_nonfinite": "test_on_nonfinite_stops_or_skips",
    "max_skipped_steps": "test_max_skipped_steps_ends_a_run_that_skips_too_many",
    "arch": "test_model_options_build_the_model",
    "embedding_size": "test_model_options_build_the_model",
    "head": "test_head_options_reach_the_head",
    "m": "test_head_options_reach_the_head",
    "h": "test_head_options_reach_the_head",
    "s": "test_head_options_reach_the_head",
    "t_alpha": "test_head_options_reach_the_head",
    "partial_fc_rate": "tests/training/test_partial_fc_in_runs.py::"
    "test_two_ranks_that_sample_half_of_the_classes_resume_to_the_same_bits",
    "freeze": "tests/training/test_starting.py::test_what_is_frozen_stays_bit_for_bit_statistics_included",
    "head_only": "tests/training/test_starting.py::test_what_is_frozen_stays_bit_for_bit_statistics_included",
    "load": "tests/training/test_starting.py::test_load_backbone_takes_no_more",
    "color_space": "test_start_from_model_statedict_starts_with_these_weights_in_their_color_space",
    "qaconv_channels": "test_matcher_options_build_the_matcher",
    "qaconv_score": "test_matcher_options_build_the_matcher",
    "class_embeddings": "test_class_embeddings_are_matched_with_k_nearest_classes",
    "k_nearest": "test_class_embeddings_are_matched_with_k_nearest_classes",
    "cross_rank_pairs": "tests/training/test_cross_rank_pairs.py::"
    "test_with_cross_rank_pairs_the_ranks_have_losses_and_gradients_of_the_global_batch",
    "adaface_loss_weight": "test_a_loss_weight_multiplies_its_terms",
    "qaconv_loss_weight": "test_a_loss_weight_multiplies_its_terms",
    "occlusion_loss_weight": "test_a_loss_weight_multiplies_its_terms",
    "triplet_weight": "test_a_loss_weight_multiplies_its_terms",
    "triplet_margin": "test_triplet_margin_raises_the_ranking_loss",
    "pairwise_reduction": "test_every_pairwise_reduction_is_another_loss",
    "occlusion_method": "test_every_occlusion_method_is_another_score",
    "occlusion_prob": "test_occlusion_prob_is_the_share_of_occluded_images",
    "occluders": "test_occluders_hide_what_they_are_made_for",
    "visibility_gradient": "test_visibility_gradient_lets_the_matching_losses_train_the_occlusion_head",
    "val_occlusion": "test_val_occlusion_adds_an_image_under_these_occluders",
    "adaface_eval_weight": "test_eval_weights_decide_the_combined_score",
    "qaconv_eval_weight": "test_eval_weights_decide_the_combined_score",
    "low_res_augmentation_prob": "test_augmentation_changes_every_image_in_its_own_way",
    "crop_augmentation_prob": "test_augmentation_changes_every_image_in_its_own_way",
    "photometric_augmentation_prob": "test_augmentation_changes_every_image_in_its_own_way",
    "gpus": "test_gpus_are_used_where_there_are_any",
    "num_workers": "test_num_workers_read_the_images_as_far_as_there_are_cores",
    "precision": "test_precision_and_use_16bit_reach_the_trainer",
    "use_16bit": "test_precision_and_use_16bit_reach_the_trainer",
    "threads": "tests/test_devices.py::test_threads_are_the_flag_s_the_environment_s_or_what_the_cores_leave",
    "num_processes": "test_num_processes_start_gloo_ranks",
    "distributed_backend": "tests/test_config.py::test_gone_backends_are_taken_as_ddp_with_one_line",
    "compile": "test_compile_compiles_the_backbone_and_keeps_its_names",
    "activation_checkpointing": "test_activation_checkpointing_keeps_fewer_activations_of_the_backbone",
    "prefix": f"{OPTIONS}::test_prefix_names_the_run_folder",
    "monitor": f"{OPTIONS}::test_monitor_chooses_the_best_checkpoint",
    "log_every_n_steps": f"{OPTIONS}::test_log_every_n_steps_is_the_distance_of_the_rows",
    "heartbeat_seconds": "tests/callbacks/test_heartbeat.py::"
    "test_heartbeat_seconds_0_beats_not_and_changes_no_bit_of_what_is_trained",
    "save_all_models": f"{OPTIONS}::test_save_all_models_keeps_the_checkpoint_of_every_epoch",
    "tensorboard": "tests/training/test_loggers_in_runs.py::"
    "test_tensorboard_has_the_values_of_metrics_csv_at_its_steps",
    "wandb_project": f"{WANDB}::test_mode_name_folder_and_options_reach_wandb",
    "wandb_entity": f"{WANDB}::test_mode_name_folder_and_options_reach_wandb",
    "wandb_name": f"{WANDB}::test_mode_name_folder_and_options_reach_wandb",
    "wandb": f"{OPTIONS}::test_wandb_offline_writes_into_the_run_folder_only",
    "resume_from_checkpoint": f"{RUNS}::test_a_run_killed_inside_an_epoch_resumes_to_bit_identical_metrics",
    "override": "tests/cli/test_overrides.py::test_an_overridden_rate_is_trained_with_recorded_and_kept",
    "requeue": "tests/cli/test_interruptions.py::"
    "test_a_job_that_is_stopped_killed_and_requeued_ends_as_if_it_had_not_been",
    "start_from_model_statedict": "test_start_from_model_statedict_starts_with_these_weights_in_their_color_space",
    "evaluate": f"{RUNS}::test_two_ranks_score_every_pair_once_and_report_the_numbers_of_one_process",
    "check_mode": "tests/training/test_check_mode.py::test_in_check_mode_two_ranks_follow_the_losses_of_one_process",
    "fast_dev_run": "test_fast_dev_run_runs_and_leaves_nothing_behind",
    "test_run": "test_trainer_settings",
}

EVALUATION_EFFECTS = {
    "model_path": f"{RUNS}::test_a_list_of_pairs_is_scored_as_given",
    "data_path": f"{RUNS}::test_a_checkpoint_is_evaluated_on_a_folder_of_identities",
    "follow_links": "test_evaluation_follow_links_reads_identities_that_links_lead_to",
    "output_dir": f"{RUNS}::test_a_list_of_pairs_is_scored_as_given",
    "pairs": f"{RUNS}::test_a_list_of_pairs_is_scored_as_given",
    "shortlist": f"{RUNS}::test_a_shortlist_and_compact_maps_on_disk_are_stated_in_the_report",
    "map_dtype": "test_evaluation_map_options_decide_how_and_where_maps_are_held",
    "map_dir": "test_evaluation_map_options_decide_how_and_where_maps_are_held",
    "batch_size": "test_evaluation_describes_batch_size_images_at_a_time",
    "adaface_weight": "test_evaluation_weights_decide_the_combined_score",
    "qaconv_weight": "test_evaluation_weights_decide_the_combined_score",
    "arch": "test_evaluation_passes_on_what_foreign_weights_do_not_tell",
    "color_space": "test_evaluation_passes_on_what_foreign_weights_do_not_tell",
    "occlude": "test_evaluation_occludes_one_image_of_a_pair_or_both",
    "occluders": "test_evaluation_occluders_and_seed_decide_what_is_hidden",
    "seed": "test_evaluation_occluders_and_seed_decide_what_is_hidden",
    "gpus": "test_evaluation_uses_a_gpu_where_there_is_one",
    "num_workers": "test_evaluation_reads_with_num_workers_threads",
    "precision": "test_evaluation_precision_and_use_16bit_describe_under_autocast",
    "use_16bit": "test_evaluation_precision_and_use_16bit_describe_under_autocast",
    "threads": "tests/test_devices.py::test_threads_are_the_flag_s_the_environment_s_or_what_the_cores_leave",
}


# ---------------------------------------------------------------- the tables are complete and true


@pytest.mark.parametrize(("program", "table"), [(Config, EFFECTS), (EvaluationConfig, EVALUATION_EFFECTS)])
def test_every_flag_has_a_test_of_its_effect(program, table):
    assert [name for name in (option.name for option in program.options()) if name not in table] == []
    assert table.keys() == {option.name for option in program.options()}


@pytest.mark.parametrize(("name", "node"), [*EFFECTS.items(), *EVALUATION_EFFECTS.items()])
def test_the_named_test_exists_and_its_file_speaks_of_the_flag(name, node):
    path, _, function = node.rpartition("::")
    source = (ROOT / path if path else Path(__file__)).read_text()
    found = [item for item in ast.parse(source).body if isinstance(item, ast.FunctionDef) and item.name == function]
    assert len(found) == 1, f"{node} does not exist"
    decorators = [ast.get_source_segment(source, decorator) for decorator in found[0].decorator_list]
    about = source if path else "\n".join([*decorators, ast.get_source_segment(source, found[0])])
    assert name in about or name.replace("_", "-") in about


# ---------------------------------------------------------------- what the tests below observe


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Folder with people of noise in `train` and the benchmark `lfw`, and others in `elsewhere`."""
    root = tmp_path_factory.mktemp("flag_faces")
    rng = np.random.default_rng(0)
    for folder, num_people in (("train", NUM_PEOPLE), ("elsewhere/people", 4)):
        for person in range(num_people):
            (root / folder / f"{person}").mkdir(parents=True)
            for number in range(NUM_IMAGES):
                image = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
                cv2.imwrite(str(root / folder / f"{person}" / f"{number}.png"), image)
    images = rng.integers(0, 256, (24, 112, 112, 3), dtype=np.uint8)
    issame = np.arange(12) % 2 == 0
    save_benchmark(Benchmark(images, issame, "lfw"), root)
    save_benchmark(Benchmark(images, issame, "calfw"), root / "elsewhere" / "sets")
    return root


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Keep caches, run folders and log handlers of a test to itself."""
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def quiet_log(monkeypatch):
    """Let a program set up its log without touching the handlers of the tests."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    yield
    logging.captureWarnings(False)


def config(**options):
    return Config(**{**SMALL_NET, "batch_size": 8, "num_workers": 0, "gpus": 0, **options})


def datamodule(**options):
    module = FaceDataModule(config(**options))
    module.setup()
    return module


def training_batch(**options):
    return next(iter(datamodule(**options).train_dataloader()))


def recognizer(*, step=0, total_steps=24, **options):
    """Return a model that believes to be trained: of `total_steps`, this is number `step`."""
    torch.manual_seed(0)
    model = Recognizer(config(**options).to_dict(), {MAIN_DATASET: NUM_PEOPLE})
    model.trainer = SimpleNamespace(
        global_step=step,
        estimated_stepping_batches=total_steps,
        num_training_batches=total_steps,
        accumulate_grad_batches=1,
        global_rank=0,
        precision_plugin=Precision(),
        loggers=[],
    )
    return model


def fixed_batch(with_masks=True):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 112, 112, 3), dtype=torch.uint8, generator=rng)
    masks = torch.ones(8, 112, 112, dtype=torch.uint8)
    masks[:, 60:] = 0
    places = torch.arange(8)
    return Sample(images, places // 2, torch.zeros(8, dtype=torch.int64), masks if with_masks else None, places, places)


def trained_step(**options):
    """Return (model, loss, {name: loss term}) of one training step on a fixed batch."""
    model = recognizer(**options)
    loss = model.training_step(fixed_batch(), 0)
    terms = {name: float(value) for name, value in model.guard.passes[0].values.items()}
    return model, float(loss.detach()), terms


def rates(**options):
    """Return the learning rates of 24 steps in 4 epochs."""
    built = recognizer(epochs=4, **options).configure_optimizers()
    found = []
    for _ in range(24):
        found.append(built["optimizer"].param_groups[0]["lr"])
        built["optimizer"].step()
        built["lr_scheduler"]["scheduler"].step()
    return found


def session(faces, **options):
    return training.prepare(config(data_root=str(faces), fast_dev_run=True, **options), set(), [])


# ---------------------------------------------------------------- data


def test_paths_choose_the_training_faces_and_the_benchmarks(faces, monkeypatch):
    def found(**paths):
        module = datamodule(**paths)
        first = Path(module.train_dataset.paths[0])
        return first.parent.parent, [benchmark.name for benchmark in module.benchmarks], module.synthetic

    elsewhere = faces / "elsewhere"
    assert found(data_root=str(faces)) == (faces / "train", ["lfw"], False)
    assert found(data_root=str(faces / "train"), val_identities=0.25) == (faces / "train", ["own"], False)
    inside = found(data_root=str(faces), train_data_path="elsewhere/people", val_data_path="elsewhere/sets")
    assert inside == (elsewhere / "people", ["calfw"], False)
    absolute = {"train_data_path": str(elsewhere / "people"), "val_data_path": str(elsewhere / "sets")}
    assert found(data_root=str(faces), **absolute) == (elsewhere / "people", ["calfw"], False)
    assert found(**absolute) == (elsewhere / "people", ["calfw"], False)
    assert found(train_data_path=str(faces / "train"), val_identities=0.25) == (faces / "train", ["own"], False)
    monkeypatch.setattr(data, "prepare_synthetic", lambda spec: faces)
    assert found() == (faces / "train", ["lfw"], True)
    with pytest.raises(ValueError, match=r"--val_data_path: .*nowhere holds none of the sets lfw"):
        datamodule(data_root=str(faces), val_data_path="nowhere")


def test_follow_links_trains_on_identities_that_links_lead_to(faces, tmp_path):
    (tmp_path / "links").mkdir()
    for folder in (faces / "train").iterdir():
        (tmp_path / "links" / folder.name).symlink_to(folder)
    assert datamodule(data_root=str(tmp_path / "links"), follow_links=True, val_identities=0.25).num_classes == 6
    with pytest.raises(ValueError, match="8 links not followed, out of the root"):
        datamodule(data_root=str(tmp_path / "links"))


def test_swap_color_channel_turns_the_files_of_the_training_set(faces):
    plain = {"data_root": str(faces), "occlusion_prob": 0.0}
    assert torch.equal(training_batch(**plain, swap_color_channel=True).image, training_batch(**plain).image.flip(-1))


def test_use_mxrecord_trains_on_a_record_file(faces, tmp_path):
    folder = ImageFolderDataset(faces / "train")
    write_faces(tmp_path, (path.read_bytes() for path in folder.paths), folder.labels)
    (tmp_path / "calfw").symlink_to(faces / "elsewhere" / "sets" / "calfw")
    module = datamodule(data_root=str(tmp_path), use_mxrecord=True)
    assert module.train_dataset.labels.tolist() == folder.labels.tolist()
    assert np.array_equal(module.train_dataset.read(7), folder.read(7))
    with pytest.raises(ValueError, match=r"train.rec: --use_mxrecord reads it"):
        datamodule(data_root=str(tmp_path))


def test_train_data_subset_keeps_the_listed_images_of_identities_with_five(faces, tmp_path, monkeypatch):
    listed = tmp_path / "listed.txt"
    listed.write_text("47, 46,45,44\n43 " + ",".join(map(str, range(12, 18))) + " 0 1 2 3\n")
    options = {"data_root": str(faces), "train_data_subset": str(listed)}
    kept = datamodule(**options).train_dataset
    assert kept.indices.tolist() == [*range(12, 18), *range(43, 48)]
    assert kept.labels.tolist() == [0] * 6 + [1] * 5
    assert kept.class_names == ["2", "7"]

    listed.write_text("48")
    with pytest.raises(ValueError, match=f"--train_data_subset {listed}: index 48 lies outside the data set of 48"):
        datamodule(**options)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"ms1mv2_train_subset_index.txt is missing.*AdaFace's repository"):
        datamodule(data_root=str(faces), train_data_subset=get_args(["--train_data_subset"]).train_data_subset)


def test_custom_num_class_must_be_the_number_of_training_identities(faces):
    assert datamodule(data_root=str(faces), custom_num_class=NUM_PEOPLE).num_classes == NUM_PEOPLE
    with pytest.raises(ValueError, match=f"--custom_num_class: 9 given, but the training data hold {NUM_PEOPLE}"):
        datamodule(data_root=str(faces), custom_num_class=9)


@pytest.mark.parametrize(("val_identities", "num_left"), [(0.25, 6), (0.5, 4)])
def test_val_identities_is_the_share_held_out(faces, val_identities, num_left):
    module = datamodule(data_root=str(faces / "train"), val_identities=val_identities)
    assert module.num_classes == num_left
    assert module.benchmarks[0].name == "own"


def test_synthetic_sizes_reach_the_renderer(faces, monkeypatch):
    rendered = []
    monkeypatch.setattr(data, "prepare_synthetic", lambda spec: rendered.append(spec) or faces)
    datamodule(synthetic_identities=30, synthetic_images=7)
    assert [(spec.num_identities, spec.images_per_identity) for spec in rendered] == [(30, 7)]


@pytest.mark.parametrize("batch_size", [8, 16])
def test_batch_size_is_that_of_the_training_batches(faces, batch_size):
    assert len(training_batch(data_root=str(faces), batch_size=batch_size).image) == batch_size


def test_epoch_by_decides_the_length_of_an_epoch(faces):
    lengths = {unit: len(datamodule(data_root=str(faces), epoch_by=unit).train_dataloader()) for unit in EPOCH_UNITS}
    assert lengths["identities"] == NUM_PEOPLE * 4 / 8  # four images of each
    assert lengths["images"] >= NUM_PEOPLE * NUM_IMAGES / 8


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_occlusion_prob_is_the_share_of_occluded_images(faces, prob):
    masks = training_batch(data_root=str(faces), occlusion_prob=prob).visibility
    assert (masks.flatten(1).min(1).values == 0).float().mean() == prob


def test_occluders_hide_what_they_are_made_for(faces):
    def visible(occluder):
        masks = training_batch(data_root=str(faces), occlusion_prob=1.0, occluders=(occluder,)).visibility.float()
        return masks[:, 40:65].mean(), masks[:, 85:].mean()  # eyes, mouth and chin

    eyes, chin = visible("sunglasses")
    assert eyes < chin == 1
    eyes, chin = visible("surgical")
    assert eyes > chin


def test_val_occlusion_adds_an_image_under_these_occluders(faces):
    def pairs(occluders):
        return next(iter(datamodule(data_root=str(faces), val_occlusion=occluders).val_dataloader())).images

    clean, sunglasses, surgical = (pairs(names) for names in ((), ("sunglasses",), ("surgical",)))
    assert (clean.shape[1], sunglasses.shape[1], surgical.shape[1]) == (2, 3, 3)
    assert torch.equal(sunglasses[:, :2], clean) and torch.equal(surgical[:, :2], clean)
    assert (sunglasses[:, 2] != clean[:, 1]).any() and (sunglasses[:, 2] != surgical[:, 2]).any()


@pytest.mark.parametrize(
    "flag", ["low_res_augmentation_prob", "crop_augmentation_prob", "photometric_augmentation_prob"]
)
def test_augmentation_changes_every_image_in_its_own_way(faces, flag):
    plain = training_batch(data_root=str(faces), occlusion_prob=0.0)
    changed = training_batch(data_root=str(faces), occlusion_prob=0.0, **{flag: 1.0})
    assert torch.equal(plain.index, changed.index) and plain.visibility.min() == 1
    kept = changed.visibility[..., None] == 1
    # An image may be shrunk, cropped or lit by next to nothing.
    assert (changed.image != plain.image).flatten(1).any(1).float().mean() >= 0.75
    if flag == "crop_augmentation_prob":
        assert torch.equal(torch.where(kept, plain.image, 0), changed.image) and not kept.all()
        return
    assert kept.all()
    squares_are_flat = torch.equal(changed.image[:, ::8, ::8], changed.image[:, 7::8, 7::8])
    assert squares_are_flat is (flag == "photometric_augmentation_prob")  # it mixes no pixels, shrinking does


def test_num_workers_read_the_images_as_far_as_there_are_cores(faces, caplog):
    def warnings():
        return [text for text in map(logging.LogRecord.getMessage, caplog.records) if "--num_workers" in text]

    assert datamodule(data_root=str(faces), num_workers=1).train_dataloader().num_workers == 1
    assert not warnings()
    loader = datamodule(data_root=str(faces), num_workers=9999).train_dataloader()
    assert 0 < loader.num_workers < 9999
    (warning,) = warnings()
    assert "--num_workers 9999" in warning and f"using {loader.num_workers}" in warning


# ---------------------------------------------------------------- model and losses


def test_model_options_build_the_model():
    tiny, large = recognizer(), recognizer(arch="mobilefacenet", embedding_size=24)
    assert type(tiny.model) is not type(large.model)
    assert large.model(torch.zeros(2, 3, 112, 112)).embedding.shape == (2, 24)
    assert large.head.kernel.shape == (24, NUM_PEOPLE)


def test_head_options_reach_the_head():
    assert [type(recognizer(head=name).head) for name in HEADS] == [heads.HEADS[name] for name in HEADS]
    head = recognizer(m=0.2, h=0.1, s=16.0, t_alpha=0.5).head
    assert (head.m, head.h, head.s, head.t_alpha) == (0.2, 0.1, 16.0, 0.5)


def test_matcher_options_build_the_matcher():
    projected = recognizer(qaconv_channels=6).matcher
    assert projected.projection.weight.shape[0] == 6
    weighted = recognizer(qaconv_score="weighted").matcher
    assert weighted.state_dict().keys() != recognizer().matcher.state_dict().keys()


def test_activation_checkpointing_keeps_fewer_activations_of_the_backbone():
    def kept_bytes(**options):
        sizes = {}

        def count(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        model = recognizer(**options)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            features = model.model(torch.zeros(4, 3, 112, 112))
        return sum(sizes.values()), features

    (everything, _), (less, _) = kept_bytes(), kept_bytes(activation_checkpointing=True)
    assert less < 0.8 * everything


@pytest.mark.parametrize("k_nearest", [2, 5])
def test_class_embeddings_are_matched_with_k_nearest_classes(k_nearest):
    assert "train_class_loss" not in trained_step()[2]
    model = recognizer(class_embeddings=True, k_nearest=k_nearest)
    model.on_train_start()
    model.training_step(fixed_batch(), 0)
    assert float(model.guard.passes[0].terms["class"]) > 0
    maps = torch.nn.functional.normalize(torch.randn(3, *model.model.map_shape), dim=1)
    assert model.matcher.class_logits(maps, torch.tensor([0, 1, 2])).shape == (3, 1 + k_nearest)


@pytest.mark.parametrize(
    ("flag", "share"),
    [
        ("adaface_loss_weight", lambda terms: terms["train_head_loss"]),
        ("qaconv_loss_weight", lambda terms: terms["train_pairwise_loss"] + 0.5 * terms["train_triplet_loss"]),
        ("triplet_weight", lambda terms: 0.7 * terms["train_triplet_loss"]),
        ("occlusion_loss_weight", lambda terms: terms["train_occlusion_loss"]),
    ],
)
def test_a_loss_weight_multiplies_its_terms(flag, share):
    _, loss, terms = trained_step()
    _, changed, _ = trained_step(**{flag: getattr(Config(), flag) + 1.0})
    assert share(terms) > 0.01
    assert changed - loss == pytest.approx(share(terms), rel=1e-3)


def test_without_its_weight_there_is_no_matcher_and_no_occlusion_head():
    assert recognizer(qaconv_loss_weight=0.0).matcher is None
    assert recognizer(occlusion_loss_weight=0.0, occlusion_method="none").occlusion_head is None


def test_triplet_margin_raises_the_ranking_loss():
    narrow, wide = (trained_step(triplet_margin=margin)[2]["train_triplet_loss"] for margin in (1.0, 3.0))
    assert narrow < wide <= narrow + 2.001


def test_every_pairwise_reduction_is_another_loss():
    found = {name: trained_step(pairwise_reduction=name)[2]["train_pairwise_loss"] for name in PAIRWISE_REDUCTIONS}
    assert len({round(value, 4) for value in found.values()}) == len(losses.PAIRWISE_REDUCTIONS)


def test_every_occlusion_method_is_another_score():
    found = [trained_step(occlusion_method=name)[2]["train_pairwise_loss"] for name in OCCLUSION_METHODS]
    assert len({round(value, 6) for value in found}) == len(OCCLUSION_METHODS)


@pytest.mark.parametrize("visibility_gradient", [False, True])
def test_visibility_gradient_lets_the_matching_losses_train_the_occlusion_head(visibility_gradient):
    model = recognizer(visibility_gradient=visibility_gradient, occlusion_method="scaling")
    model.training_step(fixed_batch(with_masks=False), 0).backward()
    gradients = [parameter.grad for parameter in model.occlusion_head.parameters()]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients) is visibility_gradient


@pytest.mark.parametrize(("weights", "decider"), [((1.0, 0.0), "adaface"), ((0.0, 1.0), "qaconv")])
def test_eval_weights_decide_the_combined_score(weights, decider):
    model = recognizer(adaface_eval_weight=weights[0], qaconv_eval_weight=weights[1])
    rng = np.random.default_rng(0)
    issame = np.arange(40) % 2 == 0
    scores = {name: (rng.normal(size=40) + issame).astype(np.float32) for name in ("adaface", "qaconv")}
    model.pair_scores = SimpleNamespace(gather=lambda benchmarks: {"lfw": {"clean": scores}})
    model.log_dict = lambda *args, **kwargs: None
    benchmark = SimpleNamespace(name="lfw", issame=issame, folds=np.arange(40) // 20)
    model.trainer.datamodule = SimpleNamespace(benchmarks=[benchmark])
    model.on_validation_epoch_end()
    results = model.last_results["lfw"]["clean"]
    assert results["combined"].accuracy == results[decider].accuracy
    assert results["adaface"].accuracy != results["qaconv"].accuracy


# ---------------------------------------------------------------- optimisation


def test_lr_is_the_rate_of_the_first_step():
    assert (rates(lr=0.5)[0], rates(lr=0.02)[0]) == (0.5, 0.02)


def test_milestones_and_gamma_step_the_rate():
    found = rates(lr=1.0, lr_milestones=(1, 3), lr_gamma=0.5)
    assert found == pytest.approx([1.0] * 6 + [0.5] * 12 + [0.25] * 6)


def test_warmup_steps_raise_the_rate():
    assert rates(lr=1.0, warmup_steps=4)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_lr_schedule_is_the_shape_of_the_rate():
    multistep, cosine = (rates(lr=1.0, lr_milestones=(), lr_schedule=name) for name in ("multistep", "cosine"))
    assert set(multistep) == {1.0}
    assert cosine == sorted(cosine, reverse=True) and cosine[12] == pytest.approx(0.5)


def test_optimizer_options_reach_the_optimizer():
    sgd = recognizer(optimizer="sgd", momentum=0.6, weight_decay=0.03).configure_optimizers()["optimizer"]
    adamw = recognizer(optimizer="adamw").configure_optimizers()["optimizer"]
    assert (type(sgd), type(adamw)) == (torch.optim.SGD, torch.optim.AdamW)
    assert sgd.param_groups[0]["momentum"] == 0.6
    assert [group["weight_decay"] for group in sgd.param_groups] == [0.03, 0.0]


@pytest.mark.parametrize("gradient_clip_val", [0.0, 0.5])
def test_gradient_clip_val_bounds_the_gradient(gradient_clip_val):
    model = recognizer(gradient_clip_val=gradient_clip_val)
    model.training_step(fixed_batch(), 0).backward()
    before = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    model.on_before_optimizer_step(model.configure_optimizers()["optimizer"])
    after = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert before > 0.6
    assert after == pytest.approx(gradient_clip_val or float(before), rel=1e-3)


def test_margin_warmup_epochs_shrink_the_margin_at_first():
    # 24 steps in 4 epochs: after 3 steps half of the first epoch is over.
    scales = []
    for epochs in (0.0, 1.0, 2.0):
        model = recognizer(step=3, epochs=4, margin_warmup_epochs=epochs)
        model.training_step(fixed_batch(), 0)
        scales.append(model.head.margin_scale)
    assert scales == [1.0, 0.5, 0.25]


def test_on_nonfinite_stops_or_skips():
    for choice in ("stop", "skip"):
        model = recognizer(on_nonfinite=choice)
        model.head.kernel.data.fill_(float("nan"))
        if choice == "stop":
            with pytest.raises(NonFiniteError, match="loss term head"):
                refused_step(model)
            continue
        refused_step(model)
        assert model.guard.skipped == 1


def test_max_skipped_steps_ends_a_run_that_skips_too_many():
    model = recognizer(on_nonfinite="skip", max_skipped_steps=2)
    model.head.kernel.data.fill_(float("nan"))
    refused_step(model)
    refused_step(model)
    with pytest.raises(NonFiniteError, match=r"2 steps were skipped before; .*--max_skipped_steps"):
        refused_step(model)


def refused_step(model):
    """Make a step that NaN takes part in, and learn of it."""
    weight = model.model.input_layer[0].weight
    before = weight.detach().clone()
    optimizer = model.configure_optimizers()["optimizer"]
    model.training_step(fixed_batch(), 0).backward()
    model.on_before_optimizer_step(optimizer)
    optimizer.step()
    model.zero_grad()
    assert torch.equal(weight, before)
    model.guard.settle()


# ---------------------------------------------------------------- trainer and run


@pytest.mark.parametrize(
    ("options", "attribute", "value"),
    [
        ({"epochs": 7}, "max_epochs", 7),
        ({"accumulate_grad_batches": 3}, "accumulate_grad_batches", 3),
        ({"epochs": 4, "check_val_every_n_epoch": 2}, "check_val_every_n_epoch", 2),
        ({"test_run": True}, "limit_train_batches", 50),
        ({}, "limit_train_batches", 1.0),
    ],
)
def test_trainer_settings(options, attribute, value, tmp_path):
    assert getattr(build_trainer(config(**options), tmp_path), attribute) == value


@pytest.mark.parametrize(
    ("options", "precision"),
    [({}, "32-true"), ({"precision": "bf16"}, "bf16-mixed"), ({"use_16bit": True}, "bf16-mixed")],
)
def test_precision_and_use_16bit_reach_the_trainer(options, precision):
    assert build_trainer(config(**options), None).precision == precision


def test_num_processes_start_gloo_ranks():
    assert build_trainer(config(), None).world_size == 1
    trainer = build_trainer(config(num_processes=2), None)
    assert trainer.world_size == 2
    assert isinstance(trainer.strategy, DDPStrategy) and trainer.strategy.process_group_backend == "gloo"


def test_gpus_are_used_where_there_are_any(monkeypatch):
    assert build_trainer(config(gpus=0), None).accelerator.__class__.__name__ == "CPUAccelerator"
    for available in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=available: answer)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert uses_gpu(config(gpus=2)) is available
        assert not uses_gpu(config(gpus=0))
    assert (local_ranks(config(gpus=2)), local_ranks(config(gpus=0))) == (2, 1)


def test_seed_decides_weights_batches_and_held_out_identities(faces, quiet_log):
    first, again, other = (session(faces, seed=seed) for seed in (1, 1, 2))
    kernels = [each.model.head.kernel for each in (first, again, other)]
    assert torch.equal(kernels[0], kernels[1]) and not torch.equal(kernels[0], kernels[2])
    batches = [next(iter(each.datamodule.train_dataloader())) for each in (first, again, other)]
    assert torch.equal(batches[0].image, batches[1].image) and not torch.equal(batches[0].image, batches[2].image)
    names = [
        tuple(datamodule(data_root=str(faces / "train"), val_identities=0.25, seed=seed).train_dataset.class_names)
        for seed in (1, 1, 2, 3)
    ]
    assert names[0] == names[1] and len(set(names)) > 1


def test_compile_compiles_the_backbone_and_keeps_its_names(faces, quiet_log):
    plain, compiled = (session(faces, compile=choice).model for choice in (False, True))
    assert plain.model._compiled_call_impl is None and compiled.model._compiled_call_impl is not None
    assert plain.state_dict().keys() == compiled.state_dict().keys()


def test_start_from_model_statedict_starts_with_these_weights_in_their_color_space(faces, tmp_path, quiet_log):
    stored = recognizer(seed=5).model.state_dict()
    torch.save(stored, tmp_path / "foreign.pt")
    first = next(name for name, value in stored.items() if value.ndim == 4)
    for color_space in ("rgb", "bgr"):
        model = session(faces, start_from_model_statedict=str(tmp_path / "foreign.pt"), color_space=color_space).model
        loaded = model.model.state_dict()
        expected = stored[first] if color_space == "rgb" else stored[first].flip(1)
        assert torch.equal(loaded[first], expected)
        assert all(torch.equal(loaded[name], stored[name]) for name in stored if name != first)


def test_fast_dev_run_runs_and_leaves_nothing_behind(faces, quiet_log):
    prepared = session(faces)
    assert training.run(prepared) == 0
    assert prepared.trainer.global_step == 1
    assert not list(Path().iterdir())


# ---------------------------------------------------------------- evaluation


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "last.ckpt")


@pytest.fixture
def evaluation(checkpoint, faces):
    """Return what an evaluation of the four people `elsewhere` works with: model, images and pairs."""
    dataset = ImageFolderDataset(faces / "elsewhere" / "people")
    images, places, _ = folder_evaluation.read_images(dataset, None)
    pairs = folder_evaluation.choose_pairs(dataset, places, None, "faces")
    return SimpleNamespace(
        model=load_pretrained_model(checkpoint), dataset=dataset, images=images, pairs=pairs,
        labels=dataset.labels[places],
    )  # fmt: skip


def evaluation_config(**options):
    return EvaluationConfig(**{"model_path": "m", "data_path": "d", "gpus": 0, "num_workers": 1, **options})


def scores_of(evaluation, **options):
    return folder_evaluation.score_conditions(
        evaluation.model, evaluation.images, evaluation.pairs, evaluation_config(**options), every_pair=True
    ).scores


def describe_calls(evaluation, **options):
    """Return (images, dtype of autocast or None) of every call of the network."""
    calls = []
    describe = evaluation.model.describe

    def recording(images):
        calls.append((len(images), torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None))
        return describe(images)

    evaluation.model.describe = recording
    scores_of(evaluation, **options)
    return calls


def test_evaluation_follow_links_reads_identities_that_links_lead_to(faces, tmp_path, monkeypatch, quiet_log):
    class FoundError(Exception):
        """The images were found."""

    def stop(dataset, *others):
        raise FoundError(len(dataset))

    monkeypatch.setattr(folder_evaluation, "load_model", lambda options: None)
    monkeypatch.setattr(folder_evaluation, "read_images", stop)
    (tmp_path / "links").mkdir()
    for folder in (faces / "train").iterdir():
        (tmp_path / "links" / folder.name).symlink_to(folder)
    options = {"data_path": str(tmp_path / "links"), "output_dir": str(tmp_path / "out")}
    with pytest.raises(FoundError, match=str(NUM_PEOPLE * NUM_IMAGES)):
        folder_evaluation.run(evaluation_config(**options, follow_links=True))
    with pytest.raises(ValueError, match="8 links not followed"):
        folder_evaluation.run(evaluation_config(**options))


def test_evaluation_describes_batch_size_images_at_a_time(evaluation):
    sizes = [[number for number, _ in describe_calls(evaluation, batch_size=size)] for size in (24, 6)]
    assert max(sizes[0]) == 4 * max(sizes[1])


def test_evaluation_precision_and_use_16bit_describe_under_autocast(evaluation):
    def dtypes(**options):
        return {dtype for _, dtype in describe_calls(evaluation, **options)}

    assert dtypes() == dtypes(precision="32") == {None}
    assert dtypes(precision="bf16") == {torch.bfloat16}
    assert dtypes(use_16bit=True) == {torch.bfloat16}


def test_evaluation_precision_matches_maps_in_it(evaluation):
    exact, lower = (scores_of(evaluation, precision=precision)["clean"] for precision in ("32", "bf16"))
    assert evaluation.model.matcher.inference_dtype == torch.bfloat16
    assert (exact["qaconv"] != lower["qaconv"]).any()
    scores_of(evaluation)
    assert evaluation.model.matcher.inference_dtype is None


@pytest.mark.parametrize(("weights", "decider"), [((1.0, 0.0), "adaface"), ((0.0, 1.0), "qaconv")])
def test_evaluation_weights_decide_the_combined_score(evaluation, weights, decider):
    options = evaluation_config(adaface_weight=weights[0], qaconv_weight=weights[1])
    issame = evaluation.pairs.issame
    rng = np.random.default_rng(0)
    scores = {"clean": {name: rng.normal(size=len(issame)) + issame for name in ("adaface", "qaconv")}}
    resampling = folder_evaluation.choose_resampling(evaluation.pairs, evaluation.labels, options)
    results = folder_evaluation.evaluate_conditions(evaluation.model, scores, evaluation.pairs, resampling, options)
    results = results["clean"]
    assert results["combined"].accuracy == results[decider].accuracy
    assert results["adaface"].auc != results["qaconv"].auc


def test_evaluation_occludes_one_image_of_a_pair_or_both(evaluation):
    none, one, both = (scores_of(evaluation, occlude=choice) for choice in ("none", "one", "both"))
    assert (list(none), list(one), list(both)) == (["clean"], *[["clean", "occluded"]] * 2)
    for condition, other in ((one["clean"], none["clean"]), (one["clean"], both["clean"])):
        np.testing.assert_array_equal(condition["adaface"], other["adaface"])
    assert (one["occluded"]["adaface"] != one["clean"]["adaface"]).any()
    assert (one["occluded"]["adaface"] != both["occluded"]["adaface"]).any()


def test_evaluation_map_options_decide_how_and_where_maps_are_held(evaluation, tmp_path, monkeypatch):
    folders = []

    class RecordingFile:
        def __init__(self, dir):
            folders.append(dir)
            self.file = tempfile.TemporaryFile(dir=dir)

        def __enter__(self):
            return self.file

        def __exit__(self, *error):
            self.file.close()

    monkeypatch.setattr("evaluation.map_store.tempfile", SimpleNamespace(TemporaryFile=RecordingFile))

    def maps(**options):
        config = evaluation_config(**options)
        return folder_evaluation.describe(evaluation.model, evaluation.images, config, torch.device("cpu")).views

    assert {view.local_map.dtype for view in maps()} == {torch.float16}
    for name in names.MAP_DTYPES:
        assert {view.local_map.dtype for view in maps(map_dtype=name)} == {getattr(torch, name)}
    assert folders == []
    folder = tmp_path / "maps"
    folder.mkdir()
    on_disk, in_memory = maps(map_dir=str(folder)), maps()
    assert set(folders) == {folder} and not list(folder.iterdir())
    assert all(torch.equal(a.local_map, b.local_map) for a, b in zip(on_disk, in_memory, strict=True))
    evaluation.model.matcher = None
    assert maps() == ()


def test_evaluation_occluders_and_seed_decide_what_is_hidden(evaluation):
    def changed_rows(**options):
        occluded = folder_evaluation.occlude_images(evaluation.images, evaluation_config(**options))
        return np.flatnonzero((occluded != evaluation.images).any(axis=(0, 2, 3)))

    assert changed_rows(occluders=("sunglasses",)).max() < 90 < changed_rows(occluders=("surgical",)).max()
    first, other = (
        folder_evaluation.occlude_images(evaluation.images, evaluation_config(seed=seed)) for seed in (1, 2)
    )
    assert (first != other).any()


def test_evaluation_uses_a_gpu_where_there_is_one(monkeypatch):
    for available in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=available: answer)
        kinds = [folder_evaluation.choose_device(evaluation_config(gpus=gpus)).type for gpus in (0, 1)]
        assert kinds == ["cpu", "cuda" if available else "cpu"]


def test_evaluation_passes_on_what_foreign_weights_do_not_tell(monkeypatch, tmp_path, quiet_log):
    asked = []

    def refuse(*arguments):
        asked.append(arguments)
        raise ValueError("seen")

    monkeypatch.setattr(folder_evaluation, "load_pretrained_model", refuse)
    options = {"model_path": "w.pt", "arch": "ir_18", "color_space": "bgr", "output_dir": str(tmp_path / "out")}
    with pytest.raises(ValueError, match="seen"):
        folder_evaluation.run(evaluation_config(**options))
    assert asked == [("w.pt", "ir_18", "bgr")]


def test_evaluation_reads_with_num_workers_threads(faces, checkpoint, tmp_path, monkeypatch, quiet_log):
    started = []

    class RecordingPool(folder_evaluation.ThreadPool):
        def __init__(self, processes):
            started.append(processes)
            super().__init__(processes)

    class ReadError(Exception):
        """The images were read."""

    def stop(*arguments):
        raise ReadError

    monkeypatch.setattr(folder_evaluation, "ThreadPool", RecordingPool)
    monkeypatch.setattr(folder_evaluation, "choose_pairs", stop)
    monkeypatch.setattr("data.usable_cores", lambda: 3)
    paths = {"model_path": str(checkpoint), "data_path": str(faces / "train"), "output_dir": str(tmp_path / "out")}
    for num_workers in (0, 2, 9):
        with pytest.raises(ReadError):
            folder_evaluation.run(evaluation_config(**paths, num_workers=num_workers))
    assert started == [1, 2, 3]


def test_reading_in_threads_keeps_the_order(faces):
    dataset = ImageFolderDataset(faces / "elsewhere" / "people")
    (images, places, _), (again, same, _) = (folder_evaluation.read_images(dataset, None, n) for n in (1, 4))
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(places, same)
