"""Which pixels of an image are kept: boxes, polygons, masks, tissue."""
