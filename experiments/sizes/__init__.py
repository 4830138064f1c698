"""How the time of an echo grows with the size of its tensor: `python -m experiments.sizes`."""
