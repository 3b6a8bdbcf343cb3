"""The result on disk: sharded OME-Zarr and its pyramid."""
