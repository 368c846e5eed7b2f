"""`python -m llmobs` is `llmobs`."""

from llmobs.cli import main

main()
