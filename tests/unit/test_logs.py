"""A log that cannot be written costs lines and nothing else."""

import io
import os
from pathlib import Path

from llmobs.telemetry.logs import Sink


def test_a_full_disk_under_the_log_raises_nothing() -> None:
    with Path("/dev/full").open("wb") as full:
        sink = Sink(full)
        assert sink.write(b'{"event":"request"}\n') == 20
        sink.flush()


def test_a_line_after_a_torn_one_stands_alone() -> None:
    class Filling(io.RawIOBase):
        """Takes ten bytes, then nothing until there is room again."""

        def __init__(self) -> None:
            self.held = b""
            self.room = 10

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            piece = bytes(data)[: self.room]  # type: ignore[call-overload]
            if not piece:
                raise OSError(28, os.strerror(28))
            self.room -= len(piece)
            self.held += piece
            return len(piece)

    out = Filling()
    sink = Sink(out)
    sink.write(b"first line, cut\n")
    out.room = 100
    sink.write(b"second line\n")
    sink.write(b"third line\n")
    assert out.held == b"first line\nsecond line\nthird line\n"


def test_a_closed_standard_output_raises_nothing() -> None:
    closed = io.BytesIO()
    closed.close()
    assert Sink(closed).write(b"x\n") == 2
