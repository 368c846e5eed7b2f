"""Takes out of an installation what nothing here ever loads: python3 trim.py SITE_PACKAGES.

A third of the wheels' weight is tests, tools for making models and symbols for debuggers. Each entry of UNUSED must
match something, so the list cannot outlive its reasons. Prints what it saved.
"""

import shutil
import struct
import sys
from pathlib import Path

UNUSED = {
    "onnxruntime/capi/libonnxruntime.so.*": "the library for C programs; Python's extension holds its own copy",
    "onnxruntime/transformers": "converts and tunes models",
    "onnxruntime/quantization": "makes models",
    "onnxruntime/tools": "makes models",
    "numpy/**/tests": "tests",
    "numpy/_core/lib": "for linking C extensions",
    "numpy/_core/include": "for compiling C extensions",
    "numpy/f2py": "compiles Fortran",
    "greenlet/tests": "tests",
}
"""What goes, by pattern, and what it is for."""


def bytes_of(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())


def remove_unused(place: Path) -> int:
    """Remove what UNUSED names; the bytes saved. SystemExit for an entry that matches nothing."""
    saved = 0
    for pattern in UNUSED:
        found = sorted(place.glob(pattern))
        if not found:
            sys.exit(f"trim: {pattern} is not there any more; drop it from the list")
        for path in found:
            saved += bytes_of(path)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    return saved


def without_symbols(library: bytes) -> bytes:
    """A 64-bit ELF library up to the end of its last segment, without the section table.

    The loader reads segments; symbol tables and debugging sections come after the last of them. What is no such
    library, or holds nothing there, is returned as it is.
    """
    if library[:6] != b"\x7fELF\x02\x01":
        return library
    (table,) = struct.unpack_from("<Q", library, 32)
    size, count = struct.unpack_from("<HH", library, 54)
    ends = [table + size * count]
    for number in range(count):
        offset, _, _, in_file = struct.unpack_from("<QQQQ", library, table + number * size + 8)
        ends.append(offset + in_file)
    end = max(ends)
    if end >= len(library):
        return library
    head = bytearray(library[:end])
    struct.pack_into("<Q", head, 40, 0)  # no section table,
    struct.pack_into("<HH", head, 60, 0, 0)  # no sections, no names of sections
    return bytes(head)


def strip_libraries(place: Path) -> int:
    """Cut the symbols off every library; the bytes saved."""
    saved = 0
    for path in place.rglob("*.so*"):
        if path.is_symlink() or not path.is_file():
            continue
        before = path.read_bytes()
        after = without_symbols(before)
        if len(after) < len(before):
            path.write_bytes(after)
            saved += len(before) - len(after)
    return saved


def main() -> None:
    place = Path(sys.argv[1])
    print(
        f"unused files: {remove_unused(place) / 1e6:.0f} MB, symbols: {strip_libraries(place) / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
