"""Which cells differ between two results folders: `splitbench compare A B`."""
