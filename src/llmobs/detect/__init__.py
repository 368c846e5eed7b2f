"""Detectors, tier by tier, and the pipeline that asks them."""
