"""Tier 1: a classifier over hashed words, which lets ordinary text end in tier 1."""
