"""Builders: a checkpoint goes in, a bundle comes out. They need torch; `bart_onnx` does not."""
