"""One short run with many options: what each of them leaves behind, and that W&B's offline mode is silent."""

import csv
import socket
import threading

import cv2
import numpy as np
import pytest
import torch
from programs import SMALL_RUN, program

import main

FLAGS = [
    *("--epochs", "1", "--batch_size", "8", "--val_identities", "0.2", "--log_every_n_steps", "2", "--prefix", "trial"),
    *("--val_check_interval", "0.5", "--monitor", "val_adaface_acc", "--save_all_models", "--swap_color_channel"),
    *("--occluders", "none", "--val_occlusion", "none", "--wandb", "offline"),
]
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


class Listener:
    """A server at the place of every proxy, which counts who calls it."""

    def __init__(self):
        self.calls = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            connection, _ = self._server.accept()
            with connection:
                self.calls.append(connection.recv(200))


def write_red_faces(root):
    """Write 10 people of red noise, four images each, with red and blue the wrong way round."""
    rng = np.random.default_rng(0)
    for person in range(10):
        (root / f"{person}").mkdir(parents=True)
        for number in range(4):
            rgb = np.zeros((112, 112, 3), np.uint8)
            rgb[..., 0] = rng.integers(60, 200) + rng.integers(0, 50, (112, 112))
            cv2.imwrite(str(root / f"{person}" / f"{number}.png"), rgb)  # read by OpenCV, and all others, as blue


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return (working folder, run folder, finished process, calls to the network)."""
    cwd = tmp_path_factory.mktemp("options")
    write_red_faces(cwd / "faces")
    (cwd / "home").mkdir()
    listener = Listener()
    network = {name: listener.url for name in (*PROXIES, "WANDB_BASE_URL")}
    done = program(
        "main.py", *SMALL_RUN, *FLAGS, "--data_root", cwd / "faces", cwd=cwd,
        HOME=str(cwd / "home"), MASKWISE_CACHE=str(cwd / "cache"), **network,
    )  # fmt: skip
    (folder,) = (cwd / "experiments").iterdir()
    return cwd, folder, done, listener.calls


def metrics(folder):
    with (folder / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.flag("prefix")
def test_prefix_names_the_run_folder(run):
    assert run[1].name.startswith("trial_")


@pytest.mark.flag("val_check_interval")
def test_val_check_interval_validates_within_the_epoch(run):
    rows = metrics(run[1])
    assert [int(row["step"]) for row in rows if row["val_acc"]] == [2, 4]
    assert sorted(path.name for path in (run[1] / "histograms").iterdir()) == ["step_2.png", "step_4.png"]


@pytest.mark.flag("log_every_n_steps")
def test_log_every_n_steps_is_the_distance_of_the_rows(run):
    assert [int(row["step"]) for row in metrics(run[1])] == [2, 4]


@pytest.mark.flag("monitor")
def test_monitor_chooses_the_best_checkpoint(run):
    scores = [float(row["val_adaface_acc"]) for row in metrics(run[1])]
    best = torch.load(run[1] / "best.ckpt", weights_only=True)
    (state,) = (state for key, state in best["callbacks"].items() if "'monitor': 'val_adaface_acc'" in key)
    assert float(state["best_model_score"]) == pytest.approx(max(scores))
    assert best["global_step"] == (2, 4)[int(np.argmax(scores))]


@pytest.mark.flag("save_all_models")
def test_save_all_models_keeps_the_checkpoint_of_every_epoch(run):
    assert {path.name for path in run[1].glob("*.ckpt")} == {"best.ckpt", "last.ckpt", "epoch_000.ckpt"}


@pytest.mark.flag("swap_color_channel")
def test_swap_color_channel_makes_training_and_validation_images_rgb(run):
    cwd, folder, *_ = run
    sheet = cv2.imread(str(folder / "samples.png"))[..., ::-1]
    image = sheet[6:118, 6:118]  # the first one, pixel for pixel, inside its gutter
    assert image[..., 0].min() >= 60 and image[..., 1:].max() == 0
    (path,) = (cwd / "cache").rglob("images.npy")
    held_out = np.load(path)
    assert held_out[..., 0].min() >= 60 and held_out[..., 1:].max() == 0


def test_without_occluders_every_pixel_is_visible(run):
    sheet = cv2.imread(str(run[1] / "samples.png"))
    mask = sheet[118:230, 6:118]
    assert (mask == mask[0, 0]).all() and mask.min() > 150  # the light color of visible pixels


@pytest.mark.flag("wandb")
def test_wandb_offline_writes_into_the_run_folder_only(run):
    cwd, folder, *_ = run
    (record,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    assert record.stat().st_size > 0
    assert {entry.name for entry in cwd.iterdir()} == {"faces", "home", "cache", "experiments"}


def test_wandb_offline_keeps_the_pictures_of_the_run(run):
    names = [path.name for path in run[1].glob("wandb/offline-run-*/files/media/images/*.png")]
    assert sorted(name.rsplit("_", 2)[0] for name in names) == ["samples", "score_histograms", "score_histograms"]


def test_wandb_offline_calls_nobody_and_asks_for_no_key(run):
    _, _, done, calls = run
    assert calls == []
    assert "api key" not in (done.stdout + done.stderr).lower()


def test_wandb_that_does_not_start_is_one_line(tmp_path, monkeypatch, capsys):
    import wandb

    def refuse(**options):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_red_faces(tmp_path / "faces")
    argv = [*SMALL_RUN, "--batch_size", "8", "--val_identities", "0.2", "--data_root", str(tmp_path / "faces")]
    with pytest.raises(SystemExit, match="2"):
        main.main([*argv, "--wandb", "online"])
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error:" in line)
    assert line.startswith("main.py: error: --wandb online: ") and "No API key" in line and "--wandb offline" in line


def test_an_unknown_monitor_is_refused_before_the_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_red_faces(tmp_path / "faces")
    argv = [*SMALL_RUN, "--batch_size", "8", "--val_identities", "0.2", "--data_root", str(tmp_path / "faces")]
    with pytest.raises(SystemExit, match="2"):
        main.main([*argv, "--monitor", "val_accuracy"])
    error = capsys.readouterr().err
    assert "--monitor: no metric will be called 'val_accuracy'" in error and "own_clean_combined_acc" in error
    assert not (tmp_path / "experiments").exists()
