"""Exploration: how an action is chosen while training."""
