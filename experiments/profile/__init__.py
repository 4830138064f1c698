"""Measures the costs of a model on each host and over each transport: `splitbench profile`."""
