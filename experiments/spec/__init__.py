"""What is asked: cells, experiments, flags and TOML files."""
