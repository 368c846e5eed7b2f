"""What the `llmobs` command can do, a module for each thing; `llmobs.cli` loads the one that is asked for."""
