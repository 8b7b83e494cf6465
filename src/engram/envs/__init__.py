"""Environments: on the host (Gymnasium) and on the device (JAX)."""
