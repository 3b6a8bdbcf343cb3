"""Models: one protocol over ONNX files and Python callables, and the values that go in and out."""
