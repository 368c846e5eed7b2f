"""Tier 1: a linear classifier over hashed words, which lets ordinary text end in tier 1."""
