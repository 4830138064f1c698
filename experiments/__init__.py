"""Experiments: specification, measurement, storage, reports, and the command line."""
