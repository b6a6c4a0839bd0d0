"""The detectors by name."""

from __future__ import annotations

from .detector import Detector, DetectorForm

DETECTORS: dict[str, DetectorForm] = {
    "retinaface_mnet025": DetectorForm(64),
    "featherface": DetectorForm(64, 3, "cbam", "deformable", "bottleneck", has_second_laterals=True),
    "featherface_v1": DetectorForm(56, 2, None, "deformable", "shuffle", has_second_laterals=True),
    "featherface_eca_cbam": DetectorForm(52, 3, "eca_cbam", "deformable", "shuffle", has_second_laterals=True),
    "featherface_v2": DetectorForm(32, 3, "eca_cbam", "depthwise"),
}


def build_detector(name: str) -> Detector:
    """Return a detector with freshly drawn weights.

    `model(images) -> Detections(loc [B, P, 4], conf [B, P, 2], landmarks [B, P, 10])`; images are [B, 3, H, W], BGR
    in 0..255 minus (104, 117, 123), which `detector_input` makes of ours; conf is softmaxed in eval mode alone.

    Args:
        name: a key of `DETECTORS`. `featherface_v2` is ours: the pyramid of `featherface_eca_cbam` in 32 channels, its
            laterals shared, and depthwise convolutions in place of deformable ones.
    Raises:
        ValueError: if there is no such detector.
    """
    if name not in DETECTORS:
        raise ValueError(f"build_detector: unknown detector {name!r}, expected one of {', '.join(DETECTORS)}")
    return Detector(DETECTORS[name])
