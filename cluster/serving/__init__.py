"""Stages in model servers: TensorFlow Serving where it is installed, else a server of ours that answers as it does."""
