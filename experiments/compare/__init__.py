"""Finds the cells that differ between two results folders: `splitbench compare A B`."""
