"""The checks by name, and how they are run: none stops another."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

from models.checking import behavior, detection, export, parts, recognition, weights
from models.checking.subject import DETECTOR, Subject
from models.checking.verdict import FAILED, Result, Verdict, failed, passed, skipped

Check = Callable[[Subject], Verdict]

OF_FILE: dict[str, Check] = {
    "keys": weights.check_keys,
    "parameters": weights.check_parameters,
    "tensors": weights.check_tensors,
    "finite": weights.check_finite,
    "batch norms": weights.check_batch_norms,
    "dead layers": weights.check_dead_layers,
}
OF_CLASSES: dict[str, Check] = {"head": parts.check_head}
OF_NETWORK: dict[str, Check] = {
    "eval mode": behavior.check_eval_mode,
    "shapes": behavior.check_shapes,
    "rows": behavior.check_rows,
    "determinism": behavior.check_determinism,
    "gradients": behavior.check_gradients,
    "save and load": behavior.check_saving,
    "precision": behavior.check_precision,
    "gpu": behavior.check_gpu,
    "export": export.check_export,
}
OF_FACES: dict[str, Check] = {
    "unit length": behavior.check_unit_length,
    "color order": recognition.check_color_order,
    "mirror image": recognition.check_mirror,
    "people": recognition.check_people,
    "matcher": parts.check_matcher,
    "occlusion head": parts.check_occlusion_head,
}
OF_DETECTORS: dict[str, Check] = {"priors": detection.check_priors}
LOADING = "loading"
CHECKS = (*OF_FILE, LOADING, *OF_CLASSES, *OF_NETWORK, *OF_FACES, *OF_DETECTORS)


def run_checks(subject: Subject, names: Collection[str] = CHECKS) -> Iterator[Result]:
    """Yield the result of each check of a model as it ends.

    What a check raises is its failure. Where the file was refused, what needs a network is skipped.

    Args:
        subject: as `open_subject` returns it.
        names: of the checks to run, of those that its kind has.
    """
    has_fault = False
    for name, check in _checks_of(subject).items():
        if name in names:
            result = _run(name, _explained if name == LOADING and has_fault else check, subject)
            has_fault |= result.status == FAILED
            yield result


def _checks_of(subject: Subject) -> dict[str, Check]:
    is_detector = subject.kind == DETECTOR
    of_network = OF_NETWORK | (OF_DETECTORS if is_detector else OF_FACES)
    if subject.model is None:
        of_network = dict.fromkeys(of_network, _no_network)
    return OF_FILE | {LOADING: _loading} | ({} if is_detector else OF_CLASSES) | of_network


def _loading(subject: Subject) -> Verdict:
    """The program that uses the file takes it."""
    return failed(subject.refusal) if subject.model is None else passed("with nothing left over")


def _explained(subject: Subject) -> Verdict:
    return skipped("refused for what is said above") if subject.model is None else _loading(subject)


def _no_network(subject: Subject) -> Verdict:
    return skipped("the file does not load")


def _run(name: str, check: Check, subject: Subject) -> Result:
    start = time.perf_counter()
    try:
        verdict = check(subject)
    except Exception as error:  # noqa: BLE001  # whatever a network, onnx or onnxruntime raises: one check ends no other
        verdict = failed(" ".join(f"{type(error).__name__}: {error}".split())[:300])
    return Result(name, *verdict, time.perf_counter() - start)
