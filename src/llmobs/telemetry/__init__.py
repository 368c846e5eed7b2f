"""Instruments, declared once, and logs."""
