"""One block: read, infer, stitch, write; and the lazy `map_overlap`."""
