"""Replay: the ring of rows, drawing from it, and rows in and out of it."""
