"""Benchmarks of the native operators against ONNX Runtime's own, in one process, in turns."""
