"""Where the numbers of a run go: metrics.csv, TensorBoard, Weights & Biases."""
