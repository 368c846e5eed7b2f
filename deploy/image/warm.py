"""Imports what the service and the command import, so that their bytecode is in the image: python3 warm.py.

Everything else stays uncompiled: bytecode of what is never imported is a sixth of the image. The root file system is
read-only, so that what is missing here is compiled anew at each start.
"""

import os
import tempfile
from pathlib import Path

import llmobs.cli
import llmobs.serve  # imported for its bytecode
from llmobs.settings import load_settings
from llmobs.store.migrate import upgrade


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DATABASE_URL"] = f"sqlite:///{folder}/warm.db"
        os.environ["LLMOBS_SPOOL_DIR"] = str(Path(folder) / "spool")
        os.environ["LLMOBS_AUTH_NONE_ANYWHERE"] = "true"
        upgrade(load_settings(os.environ))
        from llmobs.app import create_app  # noqa: PLC0415  # as a worker does it

        create_app()
        llmobs.cli.cli(["detect", "The library opens at nine."], standalone_mode=False)


if __name__ == "__main__":
    main()
