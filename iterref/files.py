"""Files: written whole or not at all, and refused before a run where they cannot be written.

    a file gets its name when its bytes are on the disk: written beside it, synchronised, renamed
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from shutil import copymode
from stat import S_ISCHR
from typing import IO

ROOM = 2**16  # bytes that have to fit on the disk before a run begins


@contextmanager
def whole(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write that gets its name when all of it is on the disk; what was there before stays where that fails.
    Devices and pipes are written as they are, and so is a file in a folder that takes no other."""
    plain = not os.path.exists(path) or os.path.isfile(path)
    path = Path(os.path.realpath(path) if plain else path)  # the real path of /dev/stdout names no file if it is a pipe
    begun = path.parent / f".{path.name[:200]}.{token_hex(4)}"
    try:
        file = open(begun, "xb") if plain else open(path, "wb")
    except PermissionError:
        if not (path.is_file() and os.access(path, os.W_OK)):
            raise
        file = open(path, "wb")
    try:
        with file:
            yield file
            file.flush()
            if begun.exists():
                os.fsync(file.fileno())
        if begun.exists():
            if path.exists():
                copymode(path, begun)
            os.replace(begun, path)
            with suppress(OSError):  # not every system lets a folder be opened
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
    except BaseException:
        begun.unlink(missing_ok=True)
        raise


def expect_writable(path: str | Path) -> None:
    """Raises `ValueError` for a file that cannot be written, saying why; leaves what is there as it is."""
    place = Path(path)
    try:
        if place.is_dir() or str(path).endswith(("/", os.sep)):
            raise IsADirectoryError(errno.EISDIR, "")
        if place.exists() and not place.is_file():
            if place.is_char_device():
                with open(place, "wb", 0) as device:
                    expect_room(device.fileno())
            return
        if place.exists() and not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, "")
        probe = place.with_name(f".{place.name[:200]}.{token_hex(4)}")
        try:
            with open(probe, "xb") as file:
                file.write(bytes(ROOM))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        if not (isinstance(error, PermissionError) and place.is_file() and os.access(place, os.W_OK)):
            raise ValueError(f"{path} cannot be written ({reason(error, place)}") from None


def expect_room(descriptor: int) -> None:
    """Raises `OSError` for a character device that takes nothing, as a full disk does; a terminal is left alone."""
    if S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
        os.write(descriptor, b"\n")


def reason(error: OSError, path: Path) -> str:
    """Why a file cannot be written, and what to do, as the end of a sentence with a bracket open."""
    told = {
        errno.ENOENT: f"there is no folder {path.parent}): make it, or name another file",
        errno.ENOTDIR: f"{path.parent} is no folder): name another file",
        errno.EISDIR: "it is a folder): name a file in it",
        errno.EACCES: "it is read-only): name another file, or let it be written",
        errno.EROFS: "its disk is read-only): name another file",
        errno.ENOSPC: "the disk is full): make room, or name another file",
        errno.EDQUOT: "your share of the disk is full): make room, or name another file",
        errno.ENAMETOOLONG: "its name is too long): name another file",
    }
    code = error.errno or 0
    return told.get(errno.EACCES if code == errno.EPERM else code, f"{error.strerror or error}): name another file")


def write_whole(path: Path, content: bytes | str) -> None:
    """Replaces a file by `content`, text as UTF-8. Raises `OSError`, one sentence, where it cannot be written or does
    not read back the same; what was there before stays then."""
    data = content.encode() if isinstance(content, str) else content
    try:
        with whole(path) as file:
            file.write(data)
            file.flush()
            if Path(file.name).is_file() and Path(file.name).read_bytes() != data:
                raise OSError("it reads back otherwise than it was written")
    except OSError as error:
        raise OSError(f"{path} cannot be written ({reason(error, path)}") from error
