"""Rows as Parquet, sent as they are written: no more than one group of them is held at a time.

The library that writes it (pyarrow) is in the package's extra `parquet`; it is loaded when first asked for.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from llmobs.errors import ParameterInvalid
from llmobs.http.schemas import LogEntry

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = "application/vnd.apache.parquet"
GROUP_ROWS = 5000
"""Rows of one row group: what a reader takes in at a time, and what we hold."""
GROUP_CHARS = 8 * 1024 * 1024
"""Characters of text in one, beyond which it has fewer rows."""
_JSON = ("context", "scores", "evidence", "coverage")
"""Columns that hold JSON as text: their inner form varies from row to row."""

_encode = msgspec.json.Encoder().encode


def parquet_library() -> Any:
    """`pyarrow`, or ParameterInvalid where the extra is not installed."""
    try:
        import pyarrow.parquet  # noqa: PLC0415  # 100 MB that only those load who ask for it
    except ImportError:
        raise ParameterInvalid(
            "format parquet needs the extra `parquet` (pip install 'llmobs[parquet]'); jsonl needs nothing."
        ) from None
    return pyarrow


class _Sink:
    """A file to the writer; what was written is taken out piece by piece."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        return len(piece)

    def taken(self) -> bytes:
        """What was written since the last time."""
        found = b"".join(self._pieces)
        self._pieces.clear()
        return found

    def flush(self) -> None: ...
    def close(self) -> None: ...


async def parquet_of(chunks: AsyncIterator[Sequence[LogEntry]], library: Any) -> AsyncIterator[bytes]:
    """The bytes of one file with all rows, a group at a time; an empty one has the columns alone."""
    schema = _schema(library)
    sink = _Sink()
    writer = library.parquet.ParquetWriter(library.PythonFile(sink, mode="w"), schema, compression="zstd")
    held: list[LogEntry] = []
    chars = 0
    async for rows in chunks:
        held += rows
        chars += sum(len(row.llm_response) for row in rows)
        if len(held) >= GROUP_ROWS or chars >= GROUP_CHARS:
            await asyncio.to_thread(_write, writer, held, schema, library)
            held, chars = [], 0
            yield sink.taken()
    if held:
        await asyncio.to_thread(_write, writer, held, schema, library)
    await asyncio.to_thread(writer.close)
    yield sink.taken()


def _write(writer: Any, rows: Sequence[LogEntry], schema: "pa.Schema", library: Any) -> None:
    columns = {name: [_value(row, name) for row in rows] for name in LogEntry.__struct_fields__}
    writer.write_table(library.table(columns, schema=schema))


def _value(row: LogEntry, name: str) -> Any:
    value = getattr(row, name)
    if name in _JSON:
        return None if value is None else _encode(value).decode()
    return value


def _schema(library: Any) -> "pa.Schema":
    types = {
        "id": library.int64(),
        "created_at": library.timestamp("us", tz="UTC"),
        "blocked": library.bool_(),
        "degraded": library.bool_(),
        "tier_used": library.int8(),
        "policy_version": library.int32(),
        "confidence": library.float64(),
        "processing_time_ms": library.float64(),
    }
    return library.schema([(name, types.get(name, library.string())) for name in LogEntry.__struct_fields__])
