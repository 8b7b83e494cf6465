"""Checkpoints: named arrays, JSON and a replay log on disk, whole or not at all. This folder knows no agents."""
