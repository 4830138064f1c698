"""Where the time of a request goes, step by step: `python -m experiments.ladder`."""
