"""Runs compared: what they logged, in statistics over seeds and tasks, as a table, a picture and a page. No JAX."""
