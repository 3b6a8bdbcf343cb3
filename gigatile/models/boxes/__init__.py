"""What detectors give, and rows of boxes made of it."""
