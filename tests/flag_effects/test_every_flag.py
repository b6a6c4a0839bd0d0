"""Every flag does something: for each a test of what it changes, beyond the value that is parsed.

EFFECTS and EVALUATION_EFFECTS name that test: a function of this folder, or `path::function`.
"""

import ast
from pathlib import Path

import pytest
from programs import ROOT

from config import Config, EvaluationConfig

RUNS, OPTIONS = "tests/cli/test_training_runs.py", "tests/cli/test_run_options.py"
WANDB = "tests/engine/loggers/test_wandb_run.py"
RESUME = "tests/training/test_exact_resume.py"
DATA = "tests/training/test_face_data.py"

EFFECTS = {
    "data_root": "test_paths_choose_the_training_faces_and_the_benchmarks",
    "train_data_path": "test_paths_choose_the_training_faces_and_the_benchmarks",
    "val_data_path": "test_paths_choose_the_training_faces_and_the_benchmarks",
    "swap_color_channel": f"{OPTIONS}::test_swap_color_channel_makes_training_and_validation_images_rgb",
    "follow_links": "test_follow_links_trains_on_identities_that_links_lead_to",
    "use_mxrecord": "test_use_mxrecord_trains_on_a_record_file",
    "data_format": "test_data_format_names_how_the_images_lie",
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
    "class_weight": "test_class_weight_is_the_class_term_s_own_and_else_that_of_the_ranking_loss",
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
    "threads": "tests/engine/test_devices.py::test_threads_are_the_flag_s_the_environment_s_or_what_the_cores_leave",
    "num_processes": "test_num_processes_start_gloo_ranks",
    "distributed_backend": "tests/test_config.py::test_gone_backends_are_taken_as_ddp_with_one_line",
    "compile": "test_compile_compiles_the_backbone_and_keeps_its_names",
    "activation_checkpointing": "test_activation_checkpointing_keeps_fewer_activations_of_the_backbone",
    "prefix": f"{OPTIONS}::test_prefix_names_the_run_folder",
    "monitor": f"{OPTIONS}::test_monitor_chooses_the_best_checkpoint",
    "log_every_n_steps": f"{OPTIONS}::test_log_every_n_steps_is_the_distance_of_the_rows",
    "heartbeat_seconds": "tests/engine/callbacks/test_heartbeat.py::"
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
    "threads": "tests/engine/test_devices.py::test_threads_are_the_flag_s_the_environment_s_or_what_the_cores_leave",
}


@pytest.mark.parametrize(("program", "table"), [(Config, EFFECTS), (EvaluationConfig, EVALUATION_EFFECTS)])
def test_every_flag_has_a_test_of_its_effect(program, table):
    assert [name for name in (option.name for option in program.options()) if name not in table] == []
    assert table.keys() == {option.name for option in program.options()}


@pytest.mark.parametrize(("name", "node"), [*EFFECTS.items(), *EVALUATION_EFFECTS.items()])
def test_the_named_test_exists_and_its_file_speaks_of_the_flag(name, node):
    path, _, function = node.rpartition("::")
    files = [ROOT / path] if path else sorted(Path(__file__).parent.glob("test_*.py"))
    found = [
        (item, source)
        for source in (file.read_text(encoding="utf-8") for file in files)
        for item in ast.parse(source).body
        if isinstance(item, ast.FunctionDef) and item.name == function
    ]
    assert len(found) == 1, f"{node} does not exist"
    definition, source = found[0]
    decorators = [ast.get_source_segment(source, decorator) for decorator in definition.decorator_list]
    about = source if path else "\n".join([*decorators, ast.get_source_segment(source, definition)])
    assert name in about or name.replace("_", "-") in about
