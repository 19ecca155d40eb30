"""A disk that is full, and files that stay on it as they were."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def expect_whole(write: Callable[[Path], object], other: Callable[[Path], object], folder: Path) -> None:
    """`write` fills a file that `other`, which fails on a full disk, leaves as it is, with nothing beside it."""

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = folder / "out"
    write(file)
    before = file.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"out cannot be written \(the disk is full\): make room"):
            other(file)
    assert file.read_bytes() == before and [*folder.iterdir()] == [file]
