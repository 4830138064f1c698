"""Engines whose stages run in model servers: which server, its start, and the node's client of it."""
