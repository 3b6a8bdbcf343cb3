"""Many images as one run: which they are, what each is called, one queue, one summary."""
