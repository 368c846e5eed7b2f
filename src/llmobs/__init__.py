"""Inspects what language models say, before people read it, and keeps the record."""

__version__ = "0.1.0"
