"""Inputs of a model: images, arrays, or seeded values."""
