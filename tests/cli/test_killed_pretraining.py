"""A pretraining that is killed in the middle of an epoch, after images were clustered, goes on to the same bits."""

import pytest
import torch
from broken_runs import SIGKILL, finish, output, run_folder, start
from short_runs import write_faces

FLAGS = [
    *("pretrain", "--arch", "ir_tiny", "--embedding_size", "16", "--batch_size", "8", "--queue_size", "20"),
    *("--projection_size", "8", "--warmup_steps", "0", "--epochs", "2", "--align", "no", "--gpus", "0"),
    *("--num_workers", "0", "--log_every_n_steps", "1", "--checkpoint_every_n_steps", "1"),
    *("--pseudo_pairs", "0:0,1:1", "--refresh_every", "1", "--cluster_threshold", "0.1", "--max_cluster_size", "6"),
    *("--resume_from_checkpoint", "auto", "--prefix", "maskwise"),
]
KEPT = ("state_dict", "optimizer_states", "lr_schedulers", "PretrainingData", "global_step", "epoch")


def outcome(cwd):
    """Return what a finished run leaves: metrics, and all of its checkpoint that training follows from."""
    folder = run_folder(cwd)
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    return (folder / "metrics.csv").read_text(), {key: saved[key] for key in KEPT}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_killed_in_an_epoch_with_clusters_goes_on_to_the_same_bits(tmp_path, ranks):
    argv = [*FLAGS, "--data_root", str(write_faces(tmp_path / "faces", pairs=0))]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert finish(start(argv, tmp_path / "whole", ranks=ranks)) == [0] * ranks, output(tmp_path / "whole")
    killed = tmp_path / "killed"
    # 4 steps an epoch: images are clustered after the fourth, and the fault meets the second epoch's third batch.
    codes = finish(start(argv, killed, ("update", 6, SIGKILL), ranks, faulty_rank=ranks - 1), timeout=300)
    assert codes[-1] == -SIGKILL and 0 not in codes and None not in codes, output(killed)
    saved = torch.load(run_folder(killed) / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6 and saved["PretrainingData"]["batches_done"] == 2
    assert int(saved["state_dict"]["generation"]) == 1 and (saved["state_dict"]["clusters"] >= 0).sum() > 16
    assert finish(start(argv, killed, ranks=ranks)) == [0] * ranks, output(killed)
    assert "going on from experiments/maskwise_" in output(killed)
    expected, found = (outcome(tmp_path / name) for name in ("whole", "killed"))
    assert found[0] == expected[0] and "cluster_f" in found[0]
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=0)
