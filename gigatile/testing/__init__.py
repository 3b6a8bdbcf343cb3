"""Fakes and Hypothesis strategies for tests of gigatile and of code that uses it."""
