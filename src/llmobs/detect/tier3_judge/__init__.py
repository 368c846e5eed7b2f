"""An LLM judge for what the earlier tiers left in doubt. Start reading at `detector.py`."""
