"""Which cut, which hosts and which transport, from a profile: `splitbench advise`."""
