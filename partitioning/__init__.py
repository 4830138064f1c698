"""Splitting a model: a Keras graph, its `Plan` of `Stage`s, and an executable for each stage."""
