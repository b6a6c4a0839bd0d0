"""The arithmetic of docs/scaling.md: a run of 42 M images and 2 M identities on 64 GPUs.

Run as `python -m benchmarks.scaling`; with --update-docs it rewrites the page's tables, that of benchmarks.structures
too where it was measured. What was measured is read from the tables of docs/benchmarks.md and of the page itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import heads
import nets
from benchmarks.harness.docs import replace_block, update_docs
from benchmarks.harness.figures import Figures, read_number
from options.command import FlagParser, launch

PROGRAM = "python -m benchmarks.scaling"
DOCS = Path(__file__).resolve().parent.parent / "docs"
BENCHMARKS, PAGE = DOCS / "benchmarks.md", DOCS / "scaling.md"
ARCH, EMBEDDING = "ir_101", 512
WEBFACE = "WebFace42M: Zhu et al., CVPR 2021, arXiv:2103.04098"
INSIGHTFACE = (
    "InsightFace, arcface_torch, speed benchmark: R100, 8 V100, 2 M identities, fp16, Partial FC 0.1, batch 1024"
)
LLAMA = "Llama 3: Grattafiori et al., 2024, arXiv:2407.21783, Sec. 3.3.4"


def forward_flops() -> float:
    """Return the operations of the backbone for one image, a multiplication and an addition being two."""
    with torch.device("meta"):
        model = nets.build_model(ARCH, EMBEDDING).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 112, 112))
    return counter.get_total_flops()


def num_parameters() -> int:
    """Return the backbone's parameters."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in nets.build_model(ARCH, EMBEDDING).parameters())


def activation_bytes(dtype: torch.dtype) -> float:
    """Return what the backbone keeps of one image for its backward pass, all of it in one type."""
    batch = 4
    with torch.device("meta"):
        model = nets.build_model(ARCH, EMBEDDING).to(dtype).train()
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.empty(batch, 3, 112, 112, dtype=dtype, device="meta"))
    return sum(storage.nbytes() for storage in kept.values()) / batch


def plan() -> Figures:
    """Return all lines of the page's tables."""
    figures = Figures()
    for add in (_setup, _storage, _step, _reading, _memory, _host, _exchange, _failures, _evaluation, _total):
        figures.section = add.__name__.strip("_")
        add(figures)
    return figures


def _setup(f: Figures) -> None:
    f.assume("images", "images", 42_474_558, "{:,.0f}", WEBFACE)
    f.assume("identities", "identities", 2_059_906, "{:,.0f}", WEBFACE)
    f.assume("nodes", "nodes", 8, "{:.0f}", "the plan")
    f.assume("width", "GPUs a node, each a rank", 8, "{:.0f}", "H100 SXM, 80 GB")
    f.assume("share", "images a GPU and step", 128, "{:.0f}", "as Partial FC trains, arXiv:2203.15565")
    f.assume("epochs", "epochs", 20, "{:.0f}", "as Partial FC trains")
    f.compute("ranks", "ranks", "{:.0f}", "nodes * width")
    f.compute("batch", "--batch_size, the total", "{:,.0f}", "ranks * share")
    f.compute("steps", "steps an epoch", "{:,.0f}", "images / batch")
    f.assume("peak", "peak of a GPU, bf16, dense", 989.0, "{:.0f} Tflop/s", "NVIDIA, H100 data sheet")
    f.assume("link", "link of a GPU to other nodes", 50.0, "{:.0f} GB/s", "400 Gb/s a GPU, as in a DGX H100")


def _storage(f: Figures) -> None:
    f.measure("payload", "JPEG of 112 x 112, quality 95", 4_300, "{:,.0f} B", "benchmarks.md, Data: synthetic faces")
    f.assume("large", "JPEG with more texture", 8_000, "{:,.0f} B", "photographs compress less well than drawn faces")
    f.compute("record", "record: headers of 8 and 24 bytes", "{:,.0f} B", "payload + 32")
    f.compute("data", "train.rec", "{:.0f} GB", "images * record / 1e9")
    f.compute("data_large", "train.rec of large images", "{:.0f} GB", "images * (large + 32) / 1e9")
    f.compute("index", "train.idx, lines of 8 + 1 + 12 + 1 bytes", "{:.2f} GB", "images * 22 / 1e9")
    f.compute("sidecar", "sidecar: key, offset, label; identities", "{:.2f} GB", "(3 * images + identities) * 8 / 1e9")


def _step(f: Figures) -> None:
    source = "torch.utils.flop_counter over nets.build_model('ir_101'), a multiply-add is two"
    f.derive("forward", "IR-101, forward, an image", forward_flops() / 1e9, "{:.2f} Gflop", source)
    f.compute("training", "forward and backward", "{:.1f} Gflop", "3 * forward")
    f.assume("published", "published speed", 3_247, "{:,.0f} images/s", INSIGHTFACE)
    f.compute("reached", "share of the peak, 8 x 125 Tflop/s", "{:.1%}", "published * training / (8 * 125e3)")
    f.assume("used", "share of the peak to plan with", 0.2, "{:.0%}", "less than above: peaks grew, memory less so")
    f.compute("speed", "speed of a GPU", "{:,.0f} images/s", "peak * used * 1e3 / training")
    f.compute("total_speed", "of all", "{:,.0f} images/s", "speed * ranks")
    f.compute("compute_ms", "step, backbone", "{:.1f} ms", "share / speed * 1e3")
    f.compute("qaconv", "QAConv within a rank, 49 cells of 512", "{:.2f} Tflop", "share ** 2 * 49 ** 2 * 512 / 1e12")
    f.compute("backbone", "backbone of a rank", "{:.2f} Tflop", "share * training / 1e3")
    f.compute("cross", "QAConv with --cross_rank_pairs", "{:.2f} Tflop", "2 * share * batch * 49 ** 2 * 512 / 1e12")
    f.compute("minutes", "epoch", "{:.1f} min", "images / total_speed / 60")
    f.compute("hours", "all epochs", "{:.2f} h", "epochs * minutes / 60")
    f.compute("slow_hours", "all epochs at a tenth of the peak", "{:.2f} h", "hours * used / 0.1")


def _reading(f: Figures) -> None:
    full = read_number(BENCHMARKS, "loader", "images/s", loader="record, flip, occlusion at 0.5")
    bare = read_number(BENCHMARKS, "loader", "images/s", loader="bare decoding, OpenCV")
    f.measure("decoding", "decoding alone, a core", bare, "{:,.0f} images/s", "benchmarks.md, loader")
    f.measure("loading", "read, decode, flip, occlude, a core", full, "{:,.0f} images/s", "benchmarks.md, loader")
    f.compute("cores", "cores a GPU keeps busy", "{:.2f}", "speed / loading")
    f.compute("node_cores", "cores a node", "{:.1f}", "width * cores")
    f.compute("node_images", "images a node and second", "{:,.0f}", "speed * width")
    f.compute("node_bytes", "bytes a node and second", "{:.0f} MB/s", "node_images * record / 1e6")
    f.compute("all_bytes", "of all nodes", "{:.0f} MB/s", "node_bytes * nodes")
    f.measure("ahead", "read for an image that is not cached", 8, "{:.0f} KiB", "disk reads, below: pages of 4 KiB")
    f.compute("cold_bytes", "a node without a cache", "{:.1f} GB/s", "node_images * ahead * 1024 / 1e9")


def _memory(f: Figures) -> None:
    f.derive("parameters", "IR-101", num_parameters(), "{:,.0f}", "nets.build_model('ir_101')")
    f.compute("weights", "weights, gradient, momentum, DDP's buckets", "{:.2f} GB", "4 * 4 * parameters / 1e9")
    kept = activation_bytes(torch.bfloat16) / 1e6
    f.derive("kept", "kept of an image for the backward pass, bf16", kept, "{:.1f} MB", "saved_tensors_hooks")
    f.compute("activations", "activations", "{:.2f} GB", "share * kept / 1e3")
    for name, rate in (("dense", 1.0), ("sampled", 0.1)):
        size = _shard(f, int(f["ranks"]), int(f["batch"]), rate)
        f.derive(name, f"head split over the ranks, rate {rate:g}", size, "{:.2f} GB", "heads.shard_bytes")
    measured, planned = (_million(column) for column in ("MiB a rank", "planned MiB"))
    f.measure("excess", "measured over planned, 1 M, 4 ranks", measured / planned, "{:.3f}", "benchmarks.md, head")
    f.compute("sum_dense", "sum at rate 1", "{:.1f} GB", "weights + activations + dense * excess")
    f.compute("sum_sampled", "sum at rate 0.1", "{:.1f} GB", "weights + activations + sampled * excess")
    f.compute("unsplit", "head not split: weights, gradient, momentum", "{:.1f} GB", "3 * 4 * identities * 512 / 1e9")
    f.compute("logits", "its logits and their gradient", "{:.1f} GB", "2 * 4 * share * identities / 1e9")
    f.compute("unsplit_ms", "all-reduce of its gradient", "{:.0f} ms",
              "2 * (ranks - 1) / ranks * 4 * identities * 512 / 1e6 / link")  # fmt: skip
    f.compute("own_pairs", "QAConv within a rank: maxima, cells, gradient", "{:.3f} GB", "share ** 2 * 49 * 9 / 1e9")
    f.compute("maps", "--cross_rank_pairs: all maps and gradient", "{:.2f} GB", "2 * batch * 49 * 512 * 4 / 1e9")
    f.compute("all_pairs", "and maxima, cells, gradient, both ways", "{:.2f} GB", "2 * share * batch * 49 * 9 / 1e9")
    f.compute("class_maps", "--class_embeddings, on every rank", "{:.1f} GB", "identities * 49 * 512 * 2 / 1e9")
    f.compute("thin_maps", "with --qaconv_channels 64", "{:.1f} GB", "identities * 49 * 64 * 2 / 1e9")
    f.assume("v100", "check: published memory of a V100", 11_987, "{:,.0f} MiB", INSIGHTFACE)
    f.derive("v100_head", "our head of 2 M on 8 ranks, batch 1024", _shard(f, 8, 1024, 0.1), "{:.2f} GB", "shard_bytes")
    f.compute("v100_sum", "our sum for it, without CUDA's own", "{:,.0f} MiB",
              "(weights + activations + v100_head) * 1e9 / 2 ** 20")  # fmt: skip


def _shard(f: Figures, ranks: int, batch: int, rate: float) -> float:
    return heads.shard_bytes(int(f["identities"]), EMBEDDING, ranks, rate, batch, batch // 4) / 1e9


def _million(column: str) -> float:
    return read_number(BENCHMARKS, "head", column, classes="1,000,000", ranks="4")


def _host(f: Figures) -> None:
    rows = (("opening", "record file, with the sidecar"), ("sampler", "PK sampler"), ("order", "plan of an epoch"))
    for key, what in rows:
        kept = read_number(PAGE, "structures", "MiB kept", what=what)
        f.measure(key, f"{what}, a rank", kept, "{:,.0f} MiB", "structures, below")
    f.measure(
        "burst", "planning an epoch, for seconds", _structure("MiB at its peak"), "{:,.0f} MiB", "structures, below"
    )
    f.compute("labels", "labels, int64", "{:,.0f} MiB", "8 * images / 2 ** 20")
    f.compute("index_mapped", "sidecar in the page cache, once a node", "{:,.0f} MiB", "sidecar * 1e9 / 2 ** 20")
    f.compute("node_host", "a node's ranks, always", "{:.1f} GB", "width * (opening + sampler + order) * 2 ** 20 / 1e9")
    f.compute("node_burst", "and while they plan", "{:.1f} GB", "width * burst * 2 ** 20 / 1e9")
    f.measure("planning", "planning an epoch", _structure("seconds"), "{:.1f} s", "structures, below")
    f.compute("planning_share", "of an epoch", "{:.1%}", "planning / 60 / minutes")


def _structure(column: str) -> float:
    return read_number(PAGE, "structures", column, what="plan of an epoch")


def _exchange(f: Figures) -> None:
    f.compute("gradient", "gradient of the backbone", "{:.0f} MB", "4 * parameters / 1e6")
    f.compute("gradient_ms", "its all-reduce, under the backward pass", "{:.1f} ms",
              "2 * (ranks - 1) / ranks * gradient / link")  # fmt: skip
    f.compute("backward_ms", "backward pass", "{:.1f} ms", "compute_ms * 2 / 3")
    f.compute("embeddings", "embeddings of the batch", "{:.1f} MB", "batch * 512 * 4 / 1e6")
    f.compute("embeddings_ms", "all-gather, and all-reduce of their gradient", "{:.2f} ms",
              "3 * (ranks - 1) / ranks * embeddings / link")  # fmt: skip
    f.compute("softmax", "softmax: maximum, sum, truth of each image", "{:.0f} kB", "3 * batch * 4 / 1e3")
    f.compute("map_bytes", "--cross_rank_pairs: maps", "{:.0f} MB", "batch * 49 * 512 * 4 / 1e6")
    f.compute("map_ms", "all-gather, and all-reduce of their gradient", "{:.0f} ms",
              "3 * (ranks - 1) / ranks * map_bytes / link")  # fmt: skip
    f.compute("step_ms", "step, embeddings not hidden", "{:.1f} ms", "compute_ms + embeddings_ms")
    f.compute("cross_ms", "step with --cross_rank_pairs", "{:.1f} ms",
              "step_ms + map_ms + compute_ms * cross / backbone")  # fmt: skip


def _failures(f: Figures) -> None:
    f.assume("interruptions", "unexpected interruptions", 419, "{:.0f}", LLAMA)
    f.assume("llama_gpus", "H100, for 54 days", 16_384, "{:,.0f}", LLAMA)
    f.compute("rate", "interruptions a GPU and hour", "{:.2e}", "interruptions / (54 * 24 * llama_gpus)")
    f.compute("mtbf", "mean time between them", "{:.0f} h", "1 / (rate * ranks)")
    f.compute("risk", "expected in the run", "{:.2%}", "hours / mtbf")
    f.compute("checkpoint", "checkpoint: weights and momentum", "{:.2f} GB",
              "2 * 4 * (parameters + 512 * identities) / 1e9")  # fmt: skip
    f.assume("disk", "disk for it", 1.0, "{:.0f} GB/s", "one writer on a shared disk")
    f.measure("hashing", "SHA-256, a core", 1.77, "{:.2f} GB/s", "openssl speed, AMD EPYC with SHA extensions")
    f.compute("collect", "head to rank 0, block by block", "{:.1f} s", "2 * 4 * 512 * identities / 1e9 / link")
    f.compute("saving", "training waits for one", "{:.0f} s", "checkpoint / disk + checkpoint / hashing + collect")
    f.compute("young", "Young: best time between two", "{:.1f} h", "sqrt(2 * saving / 3600 * mtbf)")
    f.compute("daly", "Daly, first order: less the time it takes", "{:.1f} h", "young - saving / 3600")
    f.compute("saved_share", "one an epoch costs", "{:.1%}", "saving / (60 * minutes)")
    f.compute("kept_files", "on disk: last, previous, best, one in writing", "{:.0f} GB", "4 * checkpoint")
    f.compute("resume_host", "resuming: the file in the page cache, once a node", "{:.0f} GB", "checkpoint")


def _evaluation(f: Figures) -> None:
    f.assume("pairs", "pairs: LFW, AgeDB, CALFW, CPLFW 6,000 each, CFP-FP 7,000", 31_000, "{:,.0f}", "their protocols")
    f.compute("views", "images: clean and occluded, mirrored", "{:,.0f}", "pairs * 3 * 2")
    f.compute("eval_gpu", "backbone", "{:.2f} s", "views * forward / (peak * used * 1e3 * ranks)")
    own = read_number(BENCHMARKS, "validation", "ms a pair", part="all but the backbone")
    f.measure("pair_ms", "all else, a pair, on a CPU core", own, "{:.2f} ms", "benchmarks.md, validation")
    f.compute("eval_host", "all else", "{:.2f} s", "pairs * pair_ms / 1e3 / ranks")
    f.compute("graph", "--sampler graph: identities among each other", "{:.1e} flop", "2 * identities ** 2 * 512")
    f.compute("eval_share", "of an epoch", "{:.1%}", "(eval_gpu + eval_host) / (60 * minutes)")


def _total(f: Figures) -> None:
    f.compute("epoch_s", "epoch: its steps", "{:.0f} s", "steps * step_ms / 1e3")
    f.compute("between_s", "plan, validation, two checkpoints", "{:.0f} s",
              "planning + eval_gpu + eval_host + 2 * saving")  # fmt: skip
    f.compute("run", "run", "{:.2f} h", "epochs * (epoch_s + between_s) / 3600")
    f.compute("cross_run", "run with --cross_rank_pairs", "{:.2f} h",
              "epochs * (steps * cross_ms / 1e3 + between_s) / 3600")  # fmt: skip
    f.compute("gpu_hours", "GPU hours", "{:.0f}", "run * ranks")
    f.compute("node_memory", "memory of a node: data, ranks, resuming", "{:.0f} GB", "data + node_burst + resume_host")


def updated(text: str, page: Path) -> str:
    """Return the page's text with every computed table as it is now."""
    figures = plan()
    for section in dict.fromkeys(line.section for line in figures.lines.values()):
        text = replace_block(text, f"scaling_{section}", figures.table(section), page)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or put them into the page; return the exit code."""
    parser = FlagParser(PROGRAM, __doc__ or "", f"{PROGRAM} --update-docs")
    parser.add_argument("--update-docs", action="store_true", help=f"rewrite the tables of {PAGE.name}")
    parser.add_argument("--measured", type=Path, default=Path("experiments/scaling"), help="folder of structures.json")
    args = parser.parse_args(argv)
    if args.update_docs:
        update_docs(PAGE, args.measured)
        PAGE.write_text(updated(PAGE.read_text(encoding="utf-8"), PAGE), encoding="utf-8")
        return 0
    figures = plan()
    for section in dict.fromkeys(line.section for line in figures.lines.values()):
        print(f"\n{section}\n{figures.table(section)}")
    return 0


if __name__ == "__main__":
    launch(PROGRAM, main)
