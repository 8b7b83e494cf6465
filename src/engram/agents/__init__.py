"""Agents: what acts, observes and learns."""
