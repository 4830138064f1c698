"""What a model costs on each host and over each transport: `splitbench profile`."""
