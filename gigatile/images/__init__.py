"""Lazy images: one `Image` over a reader per format."""
