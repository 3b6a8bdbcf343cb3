"""What will happen: the plan, its fingerprint and its memory, before a pixel is read."""
