"""The files of a results folder: samples, environment, faults, and the summary derived from them."""
