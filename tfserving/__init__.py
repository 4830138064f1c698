"""The official TensorFlow Serving API: a compatible server, its wire formats and its clients."""
