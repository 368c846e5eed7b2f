"""Values and pure functions. Imports nothing else of ours."""
