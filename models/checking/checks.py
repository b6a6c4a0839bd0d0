"""The checks by name, and how they are run: none stops another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

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


def run_checks(subject: Subject) -> Iterator[Result]:
    """Yield the result of each check of a model as it ends.

    What a check raises is its failure. Where the file was refused, what needs a network is skipped.
    """
    of_file = [_run(name, check, subject) for name, check in OF_FILE.items()]
    yield from of_file
    has_fault = any(result.status == FAILED for result in of_file)
    yield _run(LOADING, lambda subject: _loading(subject, has_fault), subject)
    is_detector = subject.kind == DETECTOR
    if not is_detector:
        yield from (_run(name, check, subject) for name, check in OF_CLASSES.items())
    later: Mapping[str, Check] = OF_NETWORK | (OF_DETECTORS if is_detector else OF_FACES)
    for name, check in later.items():
        yield _run(name, check if subject.model is not None else _no_network, subject)


def _loading(subject: Subject, has_fault: bool) -> Verdict:
    if subject.model is not None:
        return passed("with nothing left over")
    return skipped("the file is refused for what is said above") if has_fault else failed(subject.refusal)


def _no_network(subject: Subject) -> Verdict:
    return skipped("the file does not load")


def _run(name: str, check: Check, subject: Subject) -> Result:
    start = time.perf_counter()
    try:
        verdict = check(subject)
    except (ValueError, TypeError, RuntimeError, LookupError) as error:
        verdict = failed(" ".join(f"{type(error).__name__}: {error}".split())[:300])
    return Result(name, *verdict, time.perf_counter() - start)
