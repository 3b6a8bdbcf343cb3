"""Where blocks run: threads here, processes, a Dask cluster. They know keys and a function, no images."""
