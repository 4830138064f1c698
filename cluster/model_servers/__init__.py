"""Engines whose stages run in model servers: the choice of the server, its start, and the client in a node."""
