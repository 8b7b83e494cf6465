"""A policy server: `engram serve` answers observations over HTTP with actions, and says what they came from."""
