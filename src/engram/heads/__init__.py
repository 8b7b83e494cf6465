"""Heads: what gives the return of each action."""
