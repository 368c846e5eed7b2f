"""Tier 2: a small encoder on the CPU, no network, a few milliseconds a window of text."""
