"""What `python -m bart_onnx.bench` measures with: cases, clocks, the machine, tables and plots."""
