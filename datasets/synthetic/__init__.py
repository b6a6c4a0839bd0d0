"""The embedded synthetic faces: training identities and five benchmarks."""

from datasets.synthetic.prepare import *  # noqa: F403
