"""Every benchmark at a tiny size: it runs, prints its rows and writes its JSON. No figure is judged here."""

import json
import sys
import time

import cv2
import pytest
import torch
from gloo_ranks import forkserver

from benchmarks import __main__ as all_benchmarks
from benchmarks import data, evaluation, gallery, head, qaconv, sampler, step, synthetic, threads, validation
from benchmarks import help as help_benchmark
from benchmarks.detection import detector
from benchmarks.finetuning import edgeface, lora, mixture
from benchmarks.harness import floor
from benchmarks.harness.program import QACONV_ROWS, read, run
from benchmarks.harness.step_clock import StepClock, Stretch
from benchmarks.harness.tables import row_cells
from benchmarks.own_pages import alignment, status_page
from benchmarks.pretraining import clustering, contrast_step
from config import Config

TINY = ["--scale", "0.005", "--repeats", "1"]


@pytest.fixture(autouse=True)
def opencv_threads():
    threads = cv2.getNumThreads()
    yield
    cv2.setNumThreads(threads)


def run_tiny(module, folder, capsys, *argv):
    """Return the tables' rows, by table, after a run that printed each of them."""
    name = module.__name__.rpartition(".")[2]
    path = run(name, read(name, [*TINY, "--output", str(folder), *argv], "bench"))
    assert path == folder / f"{name}.json" and [*folder.iterdir()] == [path]
    result = json.loads(path.read_text())
    assert result["machine"]["cpu"] and result["machine"]["torch"] == torch.__version__
    assert result["options"]["repeats"] == (2 if "--repeats" in argv else 1) and result["options"]["scale"] == 0.005
    printed = capsys.readouterr().out
    for table, written in zip(module.BENCHMARK.tables, result["tables"], strict=True):
        assert written["name"] == table.name and written["rows"]
        for row in written["rows"]:
            cells = row_cells(table.columns, row)
            assert any(line.split() == " ".join(cells).split() for line in printed.splitlines())
            assert cells[0] != "-" and any(cell != "-" for cell in cells[1:])
    return {table["name"]: table["rows"] for table in result["tables"]}


def test_qaconv(tmp_path, capsys):
    rows = run_tiny(qaconv, tmp_path, capsys)["qaconv"]
    assert [row["what"] for row in rows] == [case.title for case in qaconv.CASES.values()]
    assert tuple(qaconv.CASES) == QACONV_ROWS
    assert all(row["time_ratio"] > 0 for row in rows)
    with_memory = [row["memory_goal"] is not None for row in rows]
    assert [row["memory_ratio"] is not None for row in rows] == with_memory == 3 * [True] + 5 * [False]
    in_half_precision = [row["against"] == "float32" for row in rows]
    assert [row.get("logit_difference", 0) > 0 for row in rows] == in_half_precision
    assert all(row["floor_seconds"] > 0 for row in rows)


def test_alignment(tmp_path, capsys):
    rows = run_tiny(alignment, tmp_path, capsys)
    assert [row["what"] for row in rows["alignment_speed"]] == ["without a detector", "mtcnn"]
    kinds = [row["what"] for row in rows["alignment_conditions"]]
    assert kinds == ["as they are", "in larger scenes", "mask", "sunglasses", "mask and sunglasses"]
    assert rows["alignment_conditions"][0]["off"] == 0 and rows["alignment_conditions"][0]["aligned"] > 0


def test_status_page(tmp_path, capsys):
    written, taken_in = run_tiny(status_page, tmp_path, capsys)["status_page"]
    assert written["goal_ms"] == 50 and written["share"] == pytest.approx(written["ms"] / 30_000) and written["kb"] > 20
    assert taken_in["ms"] > 0


def test_detector(tmp_path, capsys):
    rows = run_tiny(detector, tmp_path, capsys)
    forward = {row["what"]: row for row in rows["detector_forward"]}
    assert forward["retinaface_mnet025"]["time_ratio"] == 1 and forward["featherface_v2"]["parameters"] == 254472
    assert len(forward) == 5  # YuNet's file is not given
    assert [row["goal"] for row in rows["detector_loader"]] == [None, 0.7, 0.7]
    assert [row["goal"] for row in rows["detector_evaluation"]] == [60, None]


def test_edgeface(tmp_path, capsys):
    rows = run_tiny(edgeface, tmp_path, capsys)["edgeface"]
    assert [row["what"] for row in rows] == 2 * ["edgeface_xxs"] + 2 * ["edgeface_xs_gamma_06"]
    assert all(row["time_ratio"] > 0 and row["goal"] == 1.05 for row in rows)


def test_export(tmp_path, capsys, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"needs {name}: make setup-extras")
    from quick_export import quick

    from benchmarks.deployment import export

    quick(monkeypatch)
    rows = run_tiny(export, tmp_path, capsys, "--archs", "ir_tiny", "--exported", "mobilefacenet")
    assert [row["batch"] for row in rows["export_speed"]] == [1, 8]
    assert all(row["time_ratio"] == row["ort_ms"] / row["torch_ms"] for row in rows["export_speed"])
    (timed,) = rows["export_seconds"]
    assert timed["what"] == "mobilefacenet" and timed["goal"] == 60 and timed["mib"] > 3


@pytest.mark.slow
def test_parity_and_cost_of_exports(tmp_path, capsys, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"needs {name}: make setup-extras")
    from portraits import write_model
    from quick_export import quick

    from benchmarks.deployment import export_cost, export_parity

    quick(monkeypatch)
    rows = run_tiny(export_parity, tmp_path / "parity", capsys, "--archs", "ir_tiny", "retinaface_mnet025")
    assert [(row["what"], row["precision"]) for row in rows["export_parity"]] == [
        ("ir_tiny", "float32"), ("ir_tiny", "int8"), ("ir_tiny", "fp16"), ("retinaface_mnet025", "float32"),
    ]  # fmt: skip
    exact, small, half, detector = rows["export_parity"]
    assert max(exact["batch_1"], detector["batch_8"]) < 1e-5 < half["batch_3"] < small["batch_3"]
    model = write_model(tmp_path / "last.ckpt")
    rows = run_tiny(export_cost, tmp_path / "cost", capsys, "--model_path", str(model), "--far", "0.02")
    scores = {row["score"] for row in rows["export_cost"]}
    assert "qaconv" in scores and len(rows["export_cost"]) == 3 * len(scores)
    exact, half, small = rows["export_size"]
    assert exact["mib"] > 1.8 * half["mib"] and exact["mib"] > small["mib"] and small["cosine"] < exact["cosine"]
    assert all(row["tar_lost"].startswith("+0.00 [") for row in rows["export_cost"] if row["precision"] == "float32")


def test_clustering(tmp_path, capsys):
    rows = run_tiny(clustering, tmp_path, capsys, "--images", "200000")["pretraining_clustering"]
    ours, *others, joined = rows
    assert ours["what"].startswith("lists, ") and ours["recall"] >= clustering.RECALL and ours["goal"] == 0.5
    assert [row["what"].partition(",")[0] for row in others] in ([], ["faiss"])
    assert (ours["time_ratio"] is None) == (not others) and joined["what"].startswith("edges and ")


def test_lora(tmp_path, capsys):
    rows = run_tiny(lora, tmp_path, capsys, "--arch", "mobilefacenet")["finetuning_lora"]
    whole, adapters, _ = rows
    assert (
        whole["state_ratio"]
        == 1.0
        > adapters["state_ratio"]
        == pytest.approx(adapters["trained"] / whole["trained"], rel=0.01)
    )
    assert adapters["time_goal"] and not whole["time_goal"] and adapters["runs"]


def test_contrast_step(tmp_path, capsys):
    rows = run_tiny(contrast_step, tmp_path, capsys, "--arch", "ir_tiny", "--repeats", "2")["pretraining_step"]
    *parts, total, whole = rows
    assert len(parts) == 3 and total["time_ratio"] == 1 and whole["goal"] == 1.1
    assert [sum(turn) for turn in zip(*(row["runs"] for row in parts), strict=True)] == pytest.approx(total["runs"])
    assert whole["time_ratio"] == pytest.approx(
        sum(one / other for one, other in zip(whole["runs"], total["runs"], strict=True)) / 2
    )


def test_the_whole_contrast_step_makes_an_update_and_the_parts_none(monkeypatch):
    seen = []
    make = contrast_step.Pretrainer
    monkeypatch.setattr(contrast_step, "Pretrainer", lambda *words: seen.append(make(*words)) or seen[0])
    steps = contrast_step.build_steps(
        contrast_step.PretrainingConfig(arch="ir_tiny", batch_size=8, queue_size=20, gpus=0, embedding_size=16)
    )
    contrast = seen[0].contrast
    assert contrast.queue.valid.all()

    def figures():
        return [next(net.parameters()).detach().clone() for net in (contrast.query, contrast.key)], int(
            contrast.queue.pointer
        )

    before, start = figures()
    *parts, whole = steps
    for part in parts:
        steps[part]()
    same, pointer = figures()
    assert all(map(torch.equal, before, same)) and pointer == start
    steps[whole]()
    steps[whole]()  # the key encoder follows the step before
    after, pointer = figures()
    assert not any(map(torch.equal, before, after)) and pointer == (start + 16) % 20


def test_mixture(tmp_path, capsys):
    rows = run_tiny(mixture, tmp_path, capsys)
    one, three = rows["finetuning_mixture_step"]
    assert (one["what"], one["time_ratio"], three["what"]) == ("one set", 1, "3 sets")
    assert three["time_goal"] == 1.05 and one["people"] == three["people"] and three["batch_size"] == 12
    assert [row["goal"] for row in rows["finetuning_mixture_plan"]] == [4.0, None, None]


def test_qaconv_rows_are_chosen_by_name(tmp_path, capsys):
    rows = run_tiny(qaconv, tmp_path, capsys, "--rows", "forward_14x14")["qaconv"]
    assert [(row["against"], row["size"]) for row in rows] == [("product", "4, 256 x 14 x 14")]


def test_qaconv_sees_the_memory_of_the_plain_formulation():
    case = qaconv.CASES["self_7x7"]._replace(size=qaconv.Size(num_maps=32, channels=8, side=7))
    row = qaconv.measure_case(case, scale=1.0, repeats=1)
    assert row["reference_mib"] >= 32 * 32 * 49 * 49 * 4 / 2**20  # the correlation alone
    assert row["memory_ratio"] < 1


def test_qaconv_compares_the_same_pairs():
    size = qaconv.Size(num_maps=20, channels=8, side=3)
    forward, all_pairs = qaconv.forward_steps(size), qaconv.all_pairs_steps(size)
    assert forward["ours"]().shape == (20, 20)
    assert forward["reference"]().shape == (20 * 9, 20 * 9)
    assert all_pairs["ours"]()["qaconv"].shape == (190,)


def test_qaconv_counts_the_operations_that_no_pass_can_do_without():
    size = qaconv.Size(num_maps=10, channels=8, side=3)
    pair = 2 * 9**2 * 8  # one product of two maps
    match = 2 * 2 * 8  # both ends of a best match
    assert qaconv.forward_work(size).operations == 100 * pair
    assert qaconv.all_pairs_work(size).operations == 45 * pair
    assert qaconv.gallery_work(size).operations == 100 * (pair + 18 * match)
    assert qaconv.self_work(size).operations == 55 * pair + 100 * 9 * match
    assert qaconv.bf16_work(size).dtype == torch.bfloat16


def test_the_floor_is_the_slower_of_arithmetic_and_memory():
    arithmetic, memory = floor.Work(10 * floor.peak_operations(torch.float32), 0), floor.Work(0, 7 * floor.peak_bytes())
    assert floor.floor_seconds(arithmetic) == pytest.approx(10)
    assert floor.floor_seconds(memory) == pytest.approx(7)


def test_step(tmp_path, capsys, faces, monkeypatch):
    # Compiling takes longer than all other benchmarks here together.
    eager = {name: variant for name, variant in step.VARIANTS.items() if not variant.compiled}
    monkeypatch.setattr(step, "VARIANTS", eager)
    options = ("--arch", "ir_tiny", "--batch_size", "4", "--shares_steps", "2", "--data_root", str(faces))
    rows = run_tiny(step, tmp_path, capsys, *options)
    assert [row["variant"] for row in rows["step"]] == list(step.VARIANTS)
    assert rows["step"][0]["time_ratio"] == 1
    *parts, whole = rows["step_shares"]
    assert sum(row["share"] for row in parts) == pytest.approx(1) == whole["share"]
    assert sum(row["milliseconds"] for row in parts) == pytest.approx(whole["milliseconds"])


def test_the_clock_follows_a_step_through_its_parts_in_order(faces):
    config = Config(arch="ir_tiny", batch_size=16, data_root=str(faces), num_workers=0, gpus=0)
    clock = step.time_steps(config, num_steps=2)
    forward = ["data", "backbone", "losses", "occlusion head", "margin head", "QAConv"]
    backward = ["losses", "QAConv", "margin head", "occlusion head", "backbone"]
    expected = [*map(Stretch, forward), *(Stretch(part, backward=True) for part in backward), Stretch("optimizer")]
    assert [list(seconds) for seconds in clock.steps] == [expected, expected]
    assert all(value > 0 for seconds in clock.steps for value in seconds.values())


def test_the_clock_leaves_warm_up_out_and_takes_medians():
    clock, part = StepClock(), Stretch("backbone")
    clock.steps = [{part: seconds} for seconds in (9.0, 1.0, 3.0, 2.0)]
    assert clock.medians(num_warmup=1) == {part: 2.0}


@pytest.mark.slow
def test_head(tmp_path, capsys, monkeypatch):
    forkserver()  # its ranks are forks of this one too
    monkeypatch.setattr(head, "RANKS", (1, 2))
    monkeypatch.setattr(head, "CLASSES", head.CLASSES[:2])
    rows = run_tiny(head, tmp_path, capsys, "--embedding_size", "16", "--batch_size", "8")["head"]
    assert [row["num_ranks"] for row in rows] == 2 * [1, 2]
    assert [row["num_classes"] for row in rows] == [n for n in (50, 500) for _ in range(2)]
    assert all(row["seconds"] > 0 and row["planned_mib"] > 0 for row in rows)
    assert all(row["memory_ratio"] == row["time_ratio"] == 1 for row in rows[::2])


@pytest.mark.slow  # four processes that import torch
def test_threads(tmp_path, capsys):
    rows = run_tiny(threads, tmp_path, capsys, "--threads", "2")["threads"]
    assert [row["waiting"] for row in rows] == list(threads.WAITING)
    assert rows[0]["idle_ratio"] == 1 and all(row["busy_rate"] > 0 for row in rows)
    assert [row["idle_goal"] for row in rows] == [None, 0.95, None, None]


def test_validation(tmp_path, capsys):
    rows = run_tiny(validation, tmp_path, capsys, "--archs", "ir_tiny")["validation"]
    backbone, *parts, whole = rows
    assert backbone["share"] == 1 and all(row["milliseconds"] > 0 for row in parts)
    assert sum(row["share"] for row in parts) == pytest.approx(whole["share"])
    assert whole["goal"] == 0.1


def test_the_clock_of_parts_counts_nothing_twice():
    clock = validation.PartClock()
    inner = clock.follow("inner", lambda: time.sleep(0.02))
    outer = clock.follow("outer", lambda: (inner(), inner()))
    start = time.perf_counter()
    outer()
    elapsed = time.perf_counter() - start
    assert clock.seconds["inner"] >= 0.04
    assert sum(clock.seconds.values()) <= elapsed


def test_gallery(tmp_path, capsys):
    rows = run_tiny(gallery, tmp_path, capsys)
    assert [row["dtype"] for row in rows["gallery_storage"]] == ["float32", "float16", "int8"]
    exact, half, byte = rows["gallery_storage"]
    assert exact["largest"] == 0 < half["largest"] < byte["largest"] < 0.1
    # an embedding of 512; per view a map of 128 x 7 x 7 and its visibility
    assert [row["kib"] for row in (exact, half, byte)] == [2 + 2 * 49 * (128 * size + 4) / 1024 for size in (4, 2, 1)]
    whole, *others = rows["gallery_search"]
    assert whole["time_ratio"] == 1 and whole["recall"] == 100 and len(others) == 5
    (enrolled,) = rows["gallery_people"]
    assert enrolled["what"] == "500 people, int8" and enrolled["seconds"] > 0


def test_evaluation(tmp_path, capsys):
    rows = run_tiny(evaluation, tmp_path, capsys)["evaluation"]
    assert [row["what"] for row in rows if row["time_ratio"] is not None] == [evaluation.FIGURES, evaluation.PEER]
    assert rows[0]["num_resamples"] == 50 and rows[-1]["num_pairs"] == 66 * 65 // 2


def test_evaluation_without_its_peer_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    assert evaluation.peer(None, None) is None and "not installed" in capsys.readouterr().out


def test_sampler(tmp_path, capsys):
    rows = run_tiny(sampler, tmp_path, capsys)["sampler"]
    assert [row["what"] for row in rows if row["time_ratio"] is not None] == [sampler.BY_IMAGES, sampler.PLAIN]
    assert rows[-1]["time_ratio"] == 1 and rows[0]["num_images"] == 29_000


@pytest.mark.slow
def test_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MASKWISE_CACHE", "")  # the program sets it
    rows = run_tiny(data, tmp_path, capsys)
    plain, *openings = rows["opening"]
    assert plain["time_ratio"] == 1 and plain["num_images"] == 29_000
    assert all(row["anonymous_mib"] > 0 and row["seconds"] > 0 for row in openings)
    assert [row["goal"] for row in rows["loader"]] == [None, None, 0.9, 0.7]
    assert rows["benchmark_sets"][0]["num_images"] == 60


def test_synthetic(tmp_path, capsys):
    (row,) = run_tiny(synthetic, tmp_path, capsys)["synthetic"]
    assert row["images_per_second"] > 0 and len(row["runs"]) == 1


def test_help(tmp_path, capsys):
    ours, bare = run_tiny(help_benchmark, tmp_path, capsys)["help"]
    assert ours["time_ratio"] > 1 == bare["time_ratio"]


@pytest.mark.parametrize("names", [["help"], []])
def test_one_and_all_of_them_run_by_name_and_the_docs_follow(names, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(all_benchmarks, "BENCHMARKS", ("help",))
    page = tmp_path / "page.md"
    page.write_text("<!-- help -->\n<!-- /help -->\n")
    folder = tmp_path / "results"
    options = ["--repeats=1", f"--output={folder}", f"--docs={page}", "--update-docs"]
    assert all_benchmarks.main([*names, *options]) == 0
    assert [path.name for path in folder.iterdir()] == ["help.json"]
    assert "| python main.py --help |" in page.read_text() and "medians of 1 runs." in page.read_text()
    assert ("== help" in capfd.readouterr().out) == (not names)


def test_a_failed_benchmark_is_named_and_the_docs_stay(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(all_benchmarks, "BENCHMARKS", ("absent",))
    page = tmp_path / "page.md"
    page.write_text("as it was")
    assert all_benchmarks.main([f"--docs={page}", "--update-docs", f"--output={tmp_path}"]) == 1
    assert "failed: absent" in capfd.readouterr().err
    assert page.read_text() == "as it was"


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        all_benchmarks.main(["qaconf"])
    assert stop.value.code == 2
    assert "unknown benchmark qaconf; choose from qaconv, step" in capsys.readouterr().err
