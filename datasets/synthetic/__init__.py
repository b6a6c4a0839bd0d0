"""The embedded synthetic faces: training identities and five benchmarks."""
