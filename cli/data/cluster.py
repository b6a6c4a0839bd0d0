"""Cluster embeddings into pseudo-identities: `python main.py cluster --help`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.two_paths import read_two_paths
from datasets.counted import counted
from engine.files import WriteFailures, side_file
from options.command import FlagParser, as_typed
from options.flags import Options, flag, flag_like
from options.tasks.pretraining import PseudoIdentityOptions
from system.files import atomic_write, remove_unfinished
from system.terminal import show

if TYPE_CHECKING:  # torch and OpenCV are imported only after the options are known to be right
    from datasets.clustering import PseudoIdentities
    from models import Embeddings

REPORT, UNFINISHED = "clustering.json", "search.unfinished.npz"
_BLOCK = 2**24

_DESCRIPTION = """Find out which images may show one person, without labels. IN is a folder of embeddings, as `embed`
writes it; OUT is a folder that gets clusters.npy, int64 [N], a number for each image or -1 where it is alone,
clusters.csv with the names, cluster_sizes.png and clustering.json: counts, settings, the share of true edges that the
search found and, where the embeddings have labels, how well clusters follow them. Images are joined where each is among
the nearest of the other, the best edges first, as long as the cluster stays below --max-size; nothing is dropped.
Interrupted, the same command goes on. Exit code: 0 done, 2 a mistake in the input, 74 the picture is missing, 130
interrupted."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Options):
    """Clustering."""

    neighbours: int = flag_like(PseudoIdentityOptions, "cluster_neighbours")
    mutual: int = flag_like(PseudoIdentityOptions, "cluster_mutual")
    threshold: float = flag_like(PseudoIdentityOptions, "cluster_threshold")
    max_size: int = flag_like(PseudoIdentityOptions, "max_cluster_size")
    jaccard: float = flag_like(PseudoIdentityOptions, "cluster_jaccard")
    method: str = flag_like(PseudoIdentityOptions, "cluster_method")
    lists: int | None = flag(None, "number of k-means lists; else by the number of images", within="[1, inf)")
    probe: int | None = flag(
        None, "lists that each image visits; else planned by the true neighbours of some images", within="[1, 1000]"
    )
    queries: int = flag(2000, "images whose neighbours are searched exactly, to measure the search", within="[1, inf)")
    seed: int = flag(0, "of the lists and the queries", within="[0, inf)")
    overwrite: bool = flag(False, "replace a result of this program that is there")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mutual > self.neighbours:
            raise ValueError(f"--mutual {self.mutual} is above --neighbours {self.neighbours}")


def main(argv: Sequence[str] | None = None, prog: str = "main.py cluster") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} my_embeddings my_clusters --max-size 300")
    parser.usage = f"{prog} IN OUT [--flag value ...]"
    failures, paths = WriteFailures(), {"IN": "the embeddings", "OUT": "folder for the clusters"}
    with read_two_paths(parser, argv, ClusterOptions, paths) as (source, output, options):
        report = _cluster(source, output, options, failures)
    show("\n".join(_summary(report)))
    show(f"clusters.npy, clusters.csv and {REPORT} are in {output}")
    return failures.exit_code()


def _cluster(source: Path, output: Path, options: ClusterOptions, failures: WriteFailures) -> dict[str, Any]:
    from datasets.clustering import (
        JoiningRules,
        SearchSettings,
        edge_recall,
        neighbours,
        pseudo_identities,
        search_figures,
    )
    from datasets.clustering.unfinished import Unfinished
    from models import read_embeddings
    from models.embedding.folder import content_checksum, read_names

    data = read_embeddings(source)
    names = read_names(source, len(data))
    if len(data) < 2:
        raise ValueError(f"{source}: one image has no neighbours; give two at least")
    _prepare(source, output, options.overwrite)
    checksum, weights = content_checksum(source), str(data.facts["weights_sha256"])
    search = (options.neighbours, options.threshold, options.method, options.lists, options.probe, options.seed)
    unfinished = Unfinished(output / UNFINISHED, weights, json.dumps([checksum, *search]))
    settings = SearchSettings(options.lists, options.probe, options.seed, _device())
    found = neighbours(data.embeddings, options.neighbours, options.threshold, options.method, settings, unfinished)
    recall = edge_recall(data.embeddings, found, options.threshold, options.queries, options.seed, _device())
    rules = JoiningRules(options.mutual, options.threshold, options.max_size, options.jaccard)
    identities = pseudo_identities(found, rules)
    report = {
        "embeddings_sha256": checksum,
        "weights_sha256": weights,
        "source": {key: data.facts.get(key) for key in ("arch", "encoder", "source", "template")},
        "settings": options.to_dict(),
        **identities.counts(),
        **search_figures(found.visits, recall),
        **_quality(identities, data),
    }
    _write(output, identities, names, report, failures)
    unfinished.remove()
    return report


def _prepare(source: Path, output: Path, overwrite: bool) -> None:
    """Make the folder of the result; refuse one that holds a result or something else."""
    if output.resolve() == source.resolve():
        raise ValueError(f"{output}: OUT is IN; give another folder")
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: is no folder")
    if overwrite:
        for name in (REPORT, UNFINISHED):
            (output / name).unlink(missing_ok=True)
    elif (output / REPORT).exists():
        raise ValueError(f"{output}: holds a clustering already; give another folder, or --overwrite")
    output.mkdir(parents=True, exist_ok=True)
    remove_unfinished(output)


def _quality(identities: PseudoIdentities, data: Embeddings) -> dict[str, Any]:
    from evaluation.representation.clustering import described_quality

    return {} if data.labels is None else {"quality": described_quality(data.labels, identities.clusters)}


def _write(
    output: Path,
    identities: PseudoIdentities,
    names: list[str],
    report: dict[str, Any],
    failures: WriteFailures,
) -> None:
    """Write the result; the report comes last, so that what has one is whole."""
    import numpy as np

    from datasets.doctor.pictures import write_histogram
    from engine import runs

    with atomic_write(output / "clusters.npy", "wb") as stream:
        np.save(stream, identities.clusters, allow_pickle=False)
    with atomic_write(output / "clusters.csv", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["index", "name", "cluster"])
        table.writerows(zip(range(len(names)), names, identities.clusters.tolist(), strict=True))
    if len(identities.sizes):
        with side_file(failures, "cluster_sizes.png"):
            write_histogram(output / "cluster_sizes.png", identities.sizes)
    runs.write_json(output / REPORT, report)


def _summary(report: dict[str, Any]) -> list[str]:
    recall = report["edge_recall"]
    lines = [
        f"{counted(report['num_images'], 'image')}, {counted(report['num_clusters'], 'cluster')} with"
        f" {report['num_clustered']} of them ({100 * report['coverage']:.1f} %), the largest of"
        f" {report['largest_cluster']}",
        f"{counted(report['num_mutual_edges'], 'mutual edge')}, {report['num_unshared_edges']} without enough common"
        f" neighbours, {report['num_refused_edges']} refused by --max-size",
        "edge recall of the search: " + ("no image has a neighbour" if recall is None else f"{recall:.4f}"),
    ]
    if report["visits"] is not None:
        lines += _said_of_visits(report["visits"], recall)
    for noise, quality in report.get("quality", {}).items():
        said = ", ".join(f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in quality.items())
        lines.append(f"images in no cluster {'alone' if noise == 'single' else 'left out'}: {said}")
    return lines


def _said_of_visits(visits: dict[str, Any], recall: float | None) -> Iterator[str]:
    from datasets.clustering.visits import LOW_RECALL, Visits

    told = Visits(**visits)
    queries = told.planning_queries
    planned = f", planned by the true neighbours of {counted(queries, 'image')}" if queries else ""
    yield f"each image visited {told.probe} of {counted(told.num_lists, 'list')}{planned}"
    if told.is_capped:
        yield (
            f"more than {told.probe} visits are not planned, though these find {told.planned_recall:.4f} of the edges"
            " only: raise --lists, or give --probe a larger number"
        )
    elif recall is not None and recall < LOW_RECALL:
        yield f"an edge recall below {LOW_RECALL} loses people: give --probe a number above {told.probe}"


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
