"""Measures the cluster of one cell under MLCommons' load generator, LoadGen."""
