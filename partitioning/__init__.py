"""What is split: a Keras graph, its `Plan` of `Stage`s, and something executable for each stage."""
