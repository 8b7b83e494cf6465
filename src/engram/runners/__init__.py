"""Runners: what drives an agent through environments."""
