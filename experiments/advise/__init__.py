"""Finds the best cut, hosts and transport from a profile: `splitbench advise`."""
