"""Encoders: what sees one observation."""
