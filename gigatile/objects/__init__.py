"""Detections, labels and polygons across seams: pure tables and arrays."""
