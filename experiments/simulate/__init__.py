"""A discrete-event simulation of pipelines of many hosts, replicas and clients, fitted to a measured run."""
