"""Lightning callbacks and loggers of ours."""

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.metrics_logger import MetricsLogger, truncate_metrics
from callbacks.sample_sheet import SampleSheet

__all__ = ["AtomicCheckpointIO", "MetricsLogger", "SampleSheet", "truncate_metrics"]
