"""The names of the flows. Imports no NumPy, so that `--help` stays fast. `cluster.flows` implements the flows."""

FLOW_NAMES = ("nested", "hub", "forward")
