"""The specification of an experiment: cells, options, flags and TOML files."""
