"""Pretraining through its command line: it trains, logs, stops and goes on to the same bits, and says what is wrong."""

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pretraining_runs import CLUSTERED, SMALL, content, only, rows
from short_runs import on_two_ranks, write_faces

import main
import models
import nets
from cli.pretraining.checkpoints import read_to_resume
from config import PretrainingConfig, get_pretraining_args
from datasets import Sample, load_benchmark, save_benchmark
from datasets.clustering import pseudo_pairs
from engine.guard import KeptBuffers
from engine.module import Step
from models.portraits import weights_checksum
from tasks.moco import refresh, watch
from tasks.moco.contrast import MomentumContrast, Rules
from tasks.moco.module import Pretrainer


def test_a_run_trains_and_goes_on_from_the_middle_of_an_epoch_to_the_same_bits(pretrain):
    more = ["--symmetric", "--left_out_top_k", 2, "--checkpoint_every_n_steps", 3, "--key_momentum", 0.5]
    more += ["--no_channels_last"]
    assert pretrain(*more, "--prefix", "whole") == 0
    whole = only("whole_*")
    state = content(whole / "last.ckpt")["state_dict"]
    # 32 images, batches of 8: 8 steps of 8 keys each in a queue of 20.
    assert int(state["contrast.queue.pointer"]) == 64 % 20 and bool(state["contrast.queue.valid"].all())
    found = rows(whole)
    assert len(found) == 8 and found[0]["chance_loss"] == 0 == found[0]["train_nce_loss"]  # the queue was empty
    assert found[3]["negatives"] > 0 and {"spread", "alignment", "uniformity", "rank"} <= found[3].keys()
    assert not any(path.name == "best.ckpt" for path in whole.iterdir())  # nothing chooses without labels

    previous = whole / "last.ckpt.previous"
    assert content(previous)["global_step"] == 6 and content(previous)["PretrainingData"]["batches_done"] == 2
    kept = Path("experiments") / "pieces_01-01_0"
    kept.mkdir()
    (kept / "last.ckpt").write_bytes(previous.read_bytes())
    (kept / "metrics.csv").write_bytes((whole / "metrics.csv").read_bytes())
    assert pretrain("--resume_from_checkpoint", kept / "last.ckpt") == 0
    resumed = content(kept / "last.ckpt")["state_dict"]
    torch.testing.assert_close(resumed, state, rtol=0, atol=0)
    assert (kept / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


@pytest.mark.parametrize("kind", ["records", "arrays"])
def test_every_kind_of_source_is_trained_on(pretrain, faces, kind):
    assert main.main(["convert", str(faces / "train"), kind, "--to", kind]) == 0
    assert pretrain("--data_root", kind, "--data_format", kind, "--epochs", 1, "--prefix", "other") == 0
    state = content(only("other_*") / "last.ckpt")["state_dict"]
    assert len(set(state["contrast.queue.images"].tolist())) == 20
    assert pretrain("--data_root", kind, "--data_format", "folder", "--use_mxrecord") == 2


def test_labeled_sets_are_reported_and_choose_only_when_asked(pretrain, faces):
    people = np.array([0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6])  # as write_faces draws them
    save_benchmark(replace(load_benchmark(faces, "lfw"), identities=people), Path("sets"))
    assert pretrain("--val_data_path", "sets", "--epochs", 1, "--prefix", "report", "--accumulate_grad_batches", 2) == 0
    folder = only("report_*")
    row = next(row for row in rows(folder) if "val_acc" in row)
    assert 0 <= row["val_acc"] <= 1
    assert row["val_knn_acc"] == row["lfw_knn_acc"] in (0, 1 / 3, 2 / 3, 1)  # persons 0, 2 and 4 are asked for
    assert not (folder / "best.ckpt").exists()
    assert [path.name for path in (folder / "histograms").iterdir()] == ["step_2.png"]
    sheet = cv2.imread(str(folder / "samples.png"))
    assert sheet.shape[1] > 8 * 2 * 112 > sheet.shape[0]  # both views of 8 images in one row
    state = content(folder / "last.ckpt")["state_dict"]
    assert int(state["contrast.queue.pointer"]) == 32 % 20  # each of the batches of a step is enqueued
    assert pretrain("--val_data_path", faces, "--epochs", 1, "--prefix", "chosen", "--monitor", "val_acc") == 0
    assert (only("chosen_*") / "best.ckpt").exists() and "val_knn_acc" not in rows(only("chosen_*"))[-1]
    assert pretrain("--val_data_path", faces, "--monitor", "lfw") == 2


def test_stages_and_patience_are_those_of_any_training(pretrain, faces):
    stages = ["--stages", "1:contrast.query.projector.*", "--stages", "3:contrast.query.*=1e-9"]
    chosen = ["--val_data_path", faces, "--monitor", "val_acc", "--patience", 1, "--keep_every_n_epochs", 1]
    assert pretrain(*stages, *chosen, "--epochs", 4, "--prefix", "staged") == 0
    folder = only("staged_*")
    start, first = (content(folder / name) for name in ("best.ckpt", "epoch_000.ckpt"))
    moved = {
        name.rsplit(".", 2)[0].split(".")[2]
        for name, value in first["state_dict"].items()
        if name.startswith("contrast.query.") and not torch.equal(value, start["state_dict"][name])
    }
    assert start["global_step"] == 0 and moved == {"projector"}  # of the backbone not even a running mean
    # Rates of next to nothing raise nothing, so the patience ends with the second epoch at the latest.
    last = content(folder / "last.ckpt")
    assert last["global_step"] in (4, 8)
    kept = Path("experiments") / "pieces_01-01_0"
    kept.mkdir()
    (kept / "last.ckpt").write_bytes((folder / "epoch_000.ckpt").read_bytes())
    assert pretrain("--resume_from_checkpoint", kept / "last.ckpt", "--epochs", 4) == 0
    torch.testing.assert_close(content(kept / "last.ckpt")["state_dict"], last["state_dict"], rtol=0, atol=0)


@pytest.mark.answer_flag("encoder")
def test_a_recognizer_begins_with_either_encoder_and_either_embeds(pretrain, faces, capsys):
    assert pretrain("--epochs", 1, "--prefix", "first", "--key_norm", "sync", "--key_momentum", 0.9) == 0
    path = only("first_*") / "last.ckpt"
    state = content(path)["state_dict"]
    assert not torch.equal(*(state[f"contrast.{name}.backbone.output_layer.3.weight"] for name in nets.ENCODERS))
    for encoder in nets.ENCODERS:
        model = nets.build_model("ir_tiny", 16)
        nets.load_weights(model, path, encoder=encoder)
        prefix = f"contrast.{encoder}.backbone."
        expected = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        torch.testing.assert_close(dict(model.state_dict()), expected, rtol=0, atol=0)
    small = ["--arch", "ir_tiny", "--embedding_size", "16", "--batch_size", "16", "--gpus", "0", "--num_workers", "0"]
    words = [
        *small,
        "--data_root",
        str(faces),
        "--align",
        "no",
        "--fast_dev_run",
        "--start_from_model_statedict",
        str(path),
    ]
    capsys.readouterr()
    assert main.main([*words, "--load", "key"]) == 0
    assert f"{path}: took the backbone of the key encoder" in capsys.readouterr().err
    for encoder in (None, *nets.ENCODERS):
        loaded, chosen = models.load(path, encoder=encoder), encoder or "query"
        weight = loaded.model.state_dict()["output_layer.3.weight"]
        assert loaded.encoder == chosen
        torch.testing.assert_close(weight, state[f"contrast.{chosen}.backbone.output_layer.3.weight"], rtol=0, atol=0)
    embed = ["embed", str(faces / "train"), "embedded", "--model-path", str(path), "--align", "no", "--gpus", "0"]
    assert main.main([*embed, "--encoder", "key"]) == 0
    facts = models.read_embeddings("embedded").facts
    assert facts["encoder"] == "key"
    assert facts["weights_sha256"] == weights_checksum(models.load(path, encoder="key"))
    with pytest.raises(SystemExit):
        main.main(embed)
    assert "embedded exists and is of other weights" in capsys.readouterr().err
    with pytest.raises(ValueError, match="encoder must be one of query, key"):
        models.load(path, encoder="both")
    # It is no recognizer to go on with, and a recognizer's checkpoint is no pretraining's.
    with pytest.raises(SystemExit) as end:
        main.main([*words[:-2], "--resume_from_checkpoint", str(path)])
    assert end.value.code == 2


def test_a_checkpoint_is_not_believed(pretrain, tmp_path, capsys):
    assert pretrain("--epochs", 1, "--prefix", "first") == 0
    path = only("first_*") / "last.ckpt"
    saved = content(path)
    assert read_to_resume(path)["global_step"] == 4

    def refusal(change):
        checkpoint = content(path)
        change(checkpoint)
        torch.save(checkpoint, tmp_path / "changed.ckpt")
        with pytest.raises(ValueError, match=r"changed\.ckpt") as error:
            read_to_resume(tmp_path / "changed.ckpt")
        return str(error.value)

    assert "contrast.queue.images: numbers from -1 to 31" in refusal(
        lambda c: c["state_dict"]["contrast.queue.images"].fill_(32)
    )
    assert "clusters" in refusal(lambda c: c["state_dict"].update(clusters=saved["state_dict"]["clusters"].float()))
    assert "NaN" in refusal(lambda c: c["state_dict"]["contrast.queue.keys"].fill_(torch.nan))
    assert "task" in refusal(lambda c: c["hyper_parameters"].update(task="recognition"))
    assert "PretrainingData" in refusal(lambda c: c["PretrainingData"].update(batches_done=3))
    assert "hyper_parameters missing" in refusal(lambda c: c.pop("hyper_parameters"))
    fewer = write_faces(tmp_path / "fewer", identities=6, pairs=0)
    assert pretrain("--resume_from_checkpoint", path, "--data_root", fewer) == 2
    assert "was trained on 32 images, but the data hold 24" in capsys.readouterr().err


def test_a_refused_step_leaves_no_key_and_no_statistic_behind(pretrain, monkeypatch):
    encode, calls = MomentumContrast.encode_keys, []

    def broken(self, images, step, way=0):
        calls.append(step)
        keys = encode(self, images, step, way)
        if calls.count(2) == 1 and step == 2:
            self.key.backbone.output_layer[-1].running_mean.fill_(torch.nan)
            return keys * torch.nan
        return keys

    monkeypatch.setattr(MomentumContrast, "encode_keys", broken)
    assert pretrain("--on_nonfinite", "skip", "--prefix", "skip") == 0
    saved = content(only("skip_*") / "last.ckpt")
    assert saved["skipped_steps"] == 1
    assert int(saved["state_dict"]["contrast.queue.pointer"]) == 7 * 8 % 20
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--queue_size", 7], "--queue_size 7 holds less than one batch of 8"),
        (["--temperature", 0], "--temperature must be in (0, inf), got 0"),
        (["--batch_size", 64, "--queue_size", 64], "--batch_size 64: ShuffleBatchSampler: a batch of 64 needs as many"),
        (["--pseudo_pairs", "1:0.5"], "--pseudo_pairs: epochs must rise from 0"),
        (["--pseudo_pairs", "0:2"], "--pseudo_pairs: values must be in [0, 1], got 2"),
        (["--pseudo_pairs", "0.5"], "--pseudo_pairs: expected epoch:value with commas between"),
        (["--ema_decay", 0.9], "--ema_decay: the key encoder is a moving average already"),
        (["--monitor", "val_acc"], "--monitor val_acc needs labeled sets"),
        (["--patience", 2], "--patience waits for a better --monitor, which is none"),
        (["--stages", "2:heads.*"], "--stages: no parameter that is trained is called 'heads.*'"),
        (["--data_root", "one"], "holds one image"),
        (["--data_root", "empty"], "no image in any of its"),
    ],
)
def test_what_cannot_work_is_one_line(pretrain, tmp_path, capsys, words, line):
    write_faces(tmp_path / "one", identities=1, images=1, pairs=0)
    (tmp_path / "empty" / "person").mkdir(parents=True)
    assert pretrain(*words) == 2
    error = capsys.readouterr().err
    assert line in error and "Traceback" not in error
    assert not Path("experiments").exists()


@pytest.mark.pretraining_flag("pseudo_pairs", "refresh_every")
def test_images_are_clustered_for_the_epochs_whose_pairs_need_it():
    config = get_pretraining_args(["--pseudo_pairs", "0:0,5:0.3,10:0"])
    assert [epoch for epoch in range(20) if config.is_refreshed_for(epoch)] == [4, 6, 8]
    config = get_pretraining_args(["--pseudo_pairs", "0:0.1", "--refresh_every", "3"])
    assert [epoch for epoch in range(8) if config.is_refreshed_for(epoch)] == [0, 3, 6]
    assert not any(map(get_pretraining_args(["--pseudo_pairs", "0:0"]).is_refreshed_for, range(99)))


@pytest.mark.parametrize("step", [4, 6])  # after the last batch of the epoch before, and inside one with pairs
def test_a_run_goes_on_with_the_clusters_of_its_epoch_to_the_same_bits(pretrain, step, monkeypatch):
    drawn, kept = [], Path("experiments/pieces_01-01_0")
    kept.mkdir(parents=True)
    provide = refresh.ClusterRefresh._provide

    def keep_and_cluster(self, trainer, module, epoch):
        if trainer.global_step == 4:
            (kept / "last.ckpt").write_bytes((only("whole_*") / "last.ckpt").read_bytes())
        provide(self, trainer, module, epoch)

    monkeypatch.setattr(refresh.ClusterRefresh, "_provide", keep_and_cluster)
    monkeypatch.setattr(refresh, "pseudo_pairs", lambda *told: drawn.append(pseudo_pairs(*told)) or drawn[-1])
    assert pretrain(*CLUSTERED, "--checkpoint_every_n_steps", 3, "--prefix", "whole") == 0
    whole = only("whole_*")
    saved = content(whole / "last.ckpt")["state_dict"]
    assert int(saved["generation"]) == 1 and int((saved["clusters"] >= 0).sum()) > 16  # of 32, for epoch 1 alone
    (partners,) = drawn
    assert (partners != np.arange(32)).sum() == int((saved["clusters"] >= 0).sum())
    assert torch.equal(saved["clusters"][partners], saved["clusters"])
    queued = saved["contrast.queue.images"]
    assert torch.equal(saved["contrast.queue.clusters"], saved["clusters"][queued])
    report = json.loads((whole / "clusters/epoch_0001.json").read_text())
    assert report["edge_recall"] == 1 and report["num_clustered"] == int((saved["clusters"] >= 0).sum())
    assert report["settings"]["max_cluster_size"] == 6 >= report["largest_cluster"]
    assert 0 <= report["quality"]["single"]["f"] <= 1 and (whole / "clusters/epoch_0001.png").exists()
    row = next(row for row in rows(whole) if "cluster_f" in row)
    assert row["cluster_f"] == report["quality"]["single"]["f"] and row["cluster_edge_recall"] == 1

    if step == 6:
        (kept / "last.ckpt").write_bytes((whole / "last.ckpt.previous").read_bytes())
    assert content(kept / "last.ckpt")["global_step"] == step
    monkeypatch.setattr(refresh.ClusterRefresh, "_provide", provide)
    assert pretrain("--resume_from_checkpoint", kept / "last.ckpt") == 0
    torch.testing.assert_close(content(kept / "last.ckpt")["state_dict"], saved, rtol=0, atol=0)
    assert (kept / "clusters").exists() == (step == 4)  # inside the epoch they are those of the checkpoint


def build(**options):
    small = {"arch": "ir_tiny", "embedding_size": 16, "batch_size": 4, "queue_size": 8, "projection_size": 8, "gpus": 0}
    return Pretrainer(PretrainingConfig(**{**small, **options}).to_dict(), 10)


def test_the_symmetric_loss_is_that_of_the_golden_file(monkeypatch):
    golden = np.load(Path(__file__).parents[1] / "golden" / "pretraining" / "b_margin_nce.npz")
    module = build(queue_size=20, symmetric=True, check_mode=True)
    module.contrast.enqueue(torch.from_numpy(golden["queue"]), torch.full((20,), 9), torch.full((20,), -1))
    sides = [Sample(torch.full((6, 112, 112, 3), v, dtype=torch.uint8), *[torch.arange(6)] * 4) for v in (0, 255)]
    known = {
        "encode_queries": [golden["raw_queries"], golden["sym_raw2"]],
        "encode_keys": [golden["sym_key1"], golden["sym_key2"]],
    }
    for name, by_view in known.items():  # black images are the first view, white ones the second
        values = [torch.nn.functional.normalize(torch.from_numpy(rows), dim=1) for rows in by_view]
        monkeypatch.setattr(module.contrast, name, lambda x, *more, values=values: values[int(x[0, 0, 0, 0] > 0)])
    total = module.forward_terms(sides[0]._replace(second=sides[1]), Step(0)).total()
    assert float(total) == pytest.approx(float(golden["sym_loss_mean"]), rel=1e-9)
    assert np.mean([golden["sym_loss_q1k2"], golden["sym_loss_q2k1"]]) == pytest.approx(float(total), rel=1e-9)


def test_new_clusters_are_taken_by_images_and_queue():
    module = build()
    keys, images = torch.eye(8)[:3], torch.tensor([4, 0, 9])
    module.contrast.enqueue(keys, images, module.clusters[images])
    module.relabel(torch.arange(10))
    assert module.contrast.queue.clusters.tolist() == [4, 0, 9, *[-1] * 5] and int(module.generation) == 1
    with pytest.raises(ValueError, match=r"int64 \[10\]"):
        module.relabel(torch.arange(9))
    ignored = module._ddp_params_and_buffers_to_ignore
    assert {f"contrast.queue.{name}" for name in ("keys", "images", "clusters", "valid", "pointer")} < set(ignored)
    assert not any(name.endswith("running_mean") for name in ignored)
    kept = {id(buffer) for buffer in KeptBuffers(module)._buffers}
    assert id(module.contrast.queue.keys) not in kept and len(kept) > 4  # a refused step takes back statistics alone


def test_collapse_is_said_where_the_loss_is_that_of_one_embedding():
    rules = Rules()
    chance = float(watch.chance_loss(torch.zeros(2, 32768, dtype=torch.bool), rules))
    assert chance == pytest.approx(11.826, abs=1e-3)
    row = {"train_nce_loss": 1.005 * chance, "chance_loss": chance}
    assert "collapsed" in watch.collapse(row, 200)
    assert watch.collapse(row, 50) is None and watch.collapse(row | {"train_nce_loss": 0.9 * chance}, 200) is None
    same = torch.ones(6, 4) / 2
    found = {name: float(value) for name, value in watch.spread_values(same, same).items()}
    assert found == pytest.approx({"spread": 0, "alignment": 0, "uniformity": 0, "rank": 1}, abs=1e-4)


def test_the_spread_of_a_batch_is_that_of_the_golden_file():
    golden = np.load(Path(__file__).parents[1] / "golden" / "pretraining" / "f_measures.npz")
    x, y, low = (torch.from_numpy(golden[name]) for name in ("x", "y", "low"))
    names = {"spread": "std_mean_times_sqrt_d", "alignment": "alignment_a2", "uniformity": "uniformity_t2"}
    expected = {name: float(golden[key]) for name, key in (names | {"rank": "rankme"}).items()}
    found = {name: float(value) for name, value in watch.spread_values(x, y).items()}
    assert found == pytest.approx(expected, rel=1e-9)
    assert float(watch.spread_values(low, low)["rank"]) == pytest.approx(float(golden["low_rankme"]), rel=1e-9)


def rank_run(folder, faces, words):
    """Run the program on this rank and return its exit code."""
    os.chdir(folder)
    return {"code": main.main(["pretrain", *SMALL, "--data_root", faces, *words])}


@pytest.mark.slow
def test_two_ranks_go_on_from_the_middle_of_an_epoch_to_the_same_bits(tmp_path, faces):
    words = [*CLUSTERED, "--checkpoint_every_n_steps", "3", "--prefix", "whole"]
    assert [rank["code"] for rank in on_two_ranks(rank_run, str(tmp_path), str(faces), words, timeout=500)] == [0, 0]
    (whole,) = (tmp_path / "experiments").glob("whole_*")
    kept = tmp_path / "experiments" / "pieces_01-01_0"
    kept.mkdir()
    (kept / "last.ckpt").write_bytes((whole / "last.ckpt.previous").read_bytes())
    words = ["--resume_from_checkpoint", str(kept / "last.ckpt")]
    assert [rank["code"] for rank in on_two_ranks(rank_run, str(tmp_path), str(faces), words, timeout=500)] == [0, 0]
    states = [content(folder / "last.ckpt")["state_dict"] for folder in (whole, kept)]
    assert int(states[0]["contrast.queue.pointer"]) == 64 % 20 and int(states[0]["generation"]) == 1
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)
