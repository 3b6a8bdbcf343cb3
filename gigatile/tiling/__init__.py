"""Geometry: regions, tiles, blocks, weights, borders. Imports nothing but numpy."""
