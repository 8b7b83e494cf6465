"""Adapters: families of environments that need preparation of their own."""
