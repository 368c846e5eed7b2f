"""Tier 1: linear-time rules over the raw and the normalised text, on every request."""
