"""Agents to give away: a shared folder is written, pushed to a hub and pulled from there."""
