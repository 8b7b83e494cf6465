"""Losses: returns, bootstraps and regressions; pure functions of arrays."""
