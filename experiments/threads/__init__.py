"""Shows how many workers nested calls need: `python -m experiments.threads`."""
