"""Files: written whole or not at all, and read back before they get their name.

    temporary file beside it  ->  bytes on the disk (fsync)  ->  rename
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import IO


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that gets its name when all of it is on the disk, and leaves none where writing fails."""
    begun = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        with open(begun, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(begun, path)
    except BaseException:
        begun.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # not every system lets a folder be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replaces a file by `content`, text as UTF-8. Raises `OSError`, one sentence, where it cannot be written or does
    not read back the same; what was there before stays then."""
    data = content.encode() if isinstance(content, str) else content
    try:
        with atomic(path) as file:
            file.write(data)
            file.flush()
            if Path(file.name).read_bytes() != data:
                raise OSError("it reads back otherwise than it was written")
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{path} cannot be written ({reason}): free space, or write elsewhere") from error
