"""Builders: a BART checkpoint goes in, a bundle comes out. Needs torch and onnx; `bart_onnx` not."""
