"""Networks as ONNX graphs: exported, made smaller, compared with torch, and run without it."""
