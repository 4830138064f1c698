"""Stages executed by model servers: TensorFlow Serving where it is installed, else the compatible server."""
