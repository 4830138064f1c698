"""The flows by name. Imports no numpy, so that `--help` stays fast; `cluster.flows` implements them."""

FLOW_NAMES = ("nested", "hub", "forward")
