"""A graph's way to a TensorRT engine: parsed, checked, given its shapes, built."""
