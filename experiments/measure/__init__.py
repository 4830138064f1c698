"""Runs an experiment: prepares it, starts the cluster, times requests and checks each answer."""
