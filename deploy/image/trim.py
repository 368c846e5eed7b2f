"""Takes out of an image what nothing in it ever runs.

    python3 trim.py packages SITE_PACKAGES    tests, tools, other databases' dialects, symbols for debuggers
    python3 trim.py system ROOT               package managers, Perl, tools that need root, Python's own installer

Each entry of PACKAGES must match something, so the list cannot outlive its reasons; SYSTEM holds for several bases,
and says which of its entries found nothing. Prints what it saved.
"""

import os
import shutil
import stat
import struct
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

PACKAGES = {
    "onnxruntime/capi/libonnxruntime.so.*": "the library for C programs; Python's extension holds its own copy",
    "onnxruntime/transformers": "converts and tunes models",
    "onnxruntime/quantization": "makes models",
    "onnxruntime/tools": "makes models",
    "onnxruntime/datasets": "examples",
    "numpy/**/tests": "tests",
    "numpy/_core/_simd.*.so": "tests",
    "numpy/_core/lib": "for linking C extensions",
    "numpy/_core/include": "for compiling C extensions",
    "numpy/f2py": "compiles Fortran",
    "numpy/random": "loaded when asked for, and never asked for",
    "greenlet/tests": "tests",
    "sqlalchemy/testing": "tests",
    "sqlalchemy/dialects/mysql": "not a database of ours",
    "sqlalchemy/dialects/oracle": "not a database of ours",
    "sqlalchemy/dialects/mssql": "not a database of ours",
    "alembic/testing": "tests",
    "litestar_offline_docs/static/asyncapi-web-component.js": "draws another kind of document",
    "litestar_offline_docs/static/swagger-ui-standalone-preset.js": "our page has no top bar",
    "**/*.pyi": "for type checkers",
    "**/*.pyx": "source of extensions that are compiled",
    "**/*.pxd": "source of extensions that are compiled",
}
"""What goes from the installed packages, by pattern, and what it is for."""

SYSTEM = {
    "usr/bin/perl*": "Perl",
    "usr/lib/*/perl*": "Perl",
    "usr/lib/*/libperl*": "Perl",
    "usr/share/perl*": "Perl",
    "usr/bin/apt*": "installs packages",
    "usr/lib/apt": "installs packages",
    "usr/lib/*/libapt-*": "installs packages",
    "usr/share/keyrings": "installs packages",
    "usr/bin/gpgv": "installs packages",
    "usr/bin/dpkg*": "installs packages; its list of them stays, for scanners",
    "usr/sbin/dpkg*": "installs packages",
    "usr/share/dpkg": "installs packages",
    "etc/apt": "installs packages",
    "etc/cron.*": "there is no cron",
    "etc/logrotate.d": "there is no logrotate",
    "usr/share/bash-completion": "for people at a prompt",
    "var/cache/debconf": "answers to questions that packages asked",
    "var/lib/apt/lists": "lists of packages",
    "var/cache/apt": "packages that were fetched",
    "usr/lib/*/gconv": "character sets for iconv, which Python does not call",
    "usr/share/doc": "documentation; licences of Debian's packages are at their sources, which the list names",
    "usr/share/bug": "for those who package",
    "usr/share/lintian": "for those who package",
    "usr/share/man": "documentation",
    "usr/share/info": "documentation",
    "usr/share/locale": "translations",
    "usr/sbin/*fs": "makes, checks and tunes file systems",
    "usr/sbin/fsck*": "makes, checks and tunes file systems",
    "usr/sbin/mkfs*": "makes, checks and tunes file systems",
    "usr/sbin/mke2fs": "makes, checks and tunes file systems",
    "usr/sbin/*2fs*": "makes, checks and tunes file systems",
    "usr/sbin/e2*": "makes, checks and tunes file systems",
    "usr/sbin/user*": "changes accounts",
    "usr/sbin/group*": "changes accounts",
    "usr/share/python-wheels": "Python's installer",
    "{python}/ensurepip": "Python's installer",
    "{python}/site-packages/pip": "Python's installer",
    "{python}/site-packages/pip-*": "Python's installer",
    "{python}/site-packages/setuptools*": "builds packages",
    "{python}/site-packages/wheel*": "builds packages",
    "usr/local/bin/pip*": "Python's installer",
    "usr/local/bin/idle*": "an editor",
    "usr/local/bin/2to3*": "rewrites Python 2",
    "usr/local/include": "for compiling C extensions",
    "{python}/config-*": "for linking C extensions",
    "{python}/distutils": "builds packages",
    "{python}/lib2to3": "rewrites Python 2",
    "{python}/idlelib": "an editor",
    "{python}/turtle*": "draws",
    "{python}/tkinter": "windows",
    "{python}/pydoc_data": "the interactive help's texts",
    "{python}/test": "tests",
}
"""What goes from the base image; {python} is the folder of the standard library."""

_LIBRARIES = ("usr/lib/python3.*", "usr/local/lib/python3.*")


def bytes_of(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())


def remove(place: Path, patterns: Iterable[str]) -> tuple[int, list[str]]:
    """Remove what the patterns match; the bytes saved, and the patterns that matched nothing."""
    saved, idle = 0, []
    for pattern in patterns:
        found = sorted(place.glob(pattern))
        if not found:
            idle.append(pattern)
        for path in found:
            if path.is_symlink():
                path.unlink()
            elif path.is_dir():
                saved += bytes_of(path)
                shutil.rmtree(path)
            else:
                saved += bytes_of(path)
                path.unlink()
    return saved, idle


def system_patterns(told: Mapping[str, str]) -> list[str]:
    """The patterns with each place that Python's standard library may have."""
    return list(dict.fromkeys(one.replace("{python}", place) for one in told for place in _LIBRARIES))


def remove_privileged(place: Path) -> int:
    """Remove every program that runs as somebody else than who starts it (setuid, setgid); the bytes saved."""
    saved = 0
    for folder, _, files in os.walk(place):
        for path in (Path(folder, name) for name in files):
            told = path.lstat()
            if stat.S_ISREG(told.st_mode) and told.st_mode & (stat.S_ISUID | stat.S_ISGID):
                saved += told.st_size
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
    what, place = sys.argv[1], Path(sys.argv[2])
    if what == "packages":
        saved, idle = remove(place, PACKAGES)
        if idle:
            sys.exit(f"trim: not there any more, drop from the list: {', '.join(idle)}")
        print(f"unused files: {saved / 1e6:.0f} MB, symbols: {strip_libraries(place) / 1e6:.0f} MB")
    else:
        saved, idle = remove(place, system_patterns(SYSTEM))
        print(f"unused files: {saved / 1e6:.0f} MB, privileged: {remove_privileged(place) / 1e6:.1f} MB")
        print(f"not in this base: {', '.join(idle)}")


if __name__ == "__main__":
    main()
