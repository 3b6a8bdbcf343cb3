"""What a finished run gives to programs that do not read its Zarr; one module a format."""
