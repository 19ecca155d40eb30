"""Jail: a child process that runs a program with little time, memory and room, and where the system allows it, alone.

    limits      seconds of processor and bytes of address space a process, bytes a file, open files (setrlimit)
    isolation   namespaces of users, processes, mounts, network and IPC; a root of read-only system folders and one
                empty folder in memory; another user, no capabilities, no further namespaces (Linux 5.12 and later)

Whoever runs as root becomes nobody; whoever does not stays the same user of files, of which none of theirs is there.
"""

from __future__ import annotations

import ctypes
import os
import platform
import select
import signal
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000  # mounts, UTS, IPC, processes, network
USERS = 0x10000000
RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE, DETACH = 1, 2, 4, 32, 4096, 16384, 1 << 18, 2
RECURSIVE, MOUNT_SETATTR = 0x8000, 442
PIVOT_ROOT, KEYCTL, NEW_KEYS = {"x86_64": 155, "aarch64": 41}, {"x86_64": 250, "aarch64": 219}, 1
DIES_WITH_PARENT, NO_NEW_PRIVILEGES, ADOPTS = 1, 38, 36
NOBODY = 65534
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
# Memory that no address space counts: shared segments, message queues, semaphores. None of them may be made.
NO_IPC = {"sys/kernel/shmall": "0", "sys/kernel/msgmni": "0", "sys/kernel/sem": "0 0 0 0"}
HOME = "/tmp"  # the empty folder


@dataclass(frozen=True)
class Limits:
    """Of one process: `cpu` seconds, bytes of `memory` and of a `file`; `processes` and threads in all. `folders` are
    read besides the system's; without `isolate` there are the limits alone, and no bound on processes."""

    cpu: int
    memory: int
    processes: int
    file: int = 8 * 2**20
    files: int = 64
    folders: tuple[str, ...] = ()
    isolate: bool = True


def start(command: Sequence[str], limits: Limits, pipes: Sequence[int], folder: str) -> int:
    """Runs a command in a jail, `pipes` as its file descriptors 0, 1, ..., and gives the process to wait for and to
    end; `folder` is where it runs without isolation. What cannot be set up ends with code 125 and says so on 2."""
    import fcntl

    child = os.fork()
    if child:
        return child
    told = fcntl.fcntl(2, fcntl.F_DUPFD, 16)
    try:
        os.setsid()
        kept = [fcntl.fcntl(pipe, fcntl.F_DUPFD, 16) for pipe in pipes]  # clear of the numbers that they are to have
        if limits.isolate:
            _alone(limits)
        else:
            os.chdir(folder)
        for number, pipe in enumerate(kept):
            os.dup2(pipe, number)
        os.closerange(len(kept), told)
        os.closerange(told + 1, 4096)
        os.set_inheritable(told, False)
        _bounded(limits)
        os.execve(command[0], list(command), {"PATH": "/usr/bin:/bin", "HOME": HOME, "LANG": "C.UTF-8", **SEEDED})
    except BaseException as error:
        os.write(told, f"{type(error).__name__}: {error}".encode())
        os._exit(125)


SEEDED = {"PYTHONHASHSEED": "0"}  # sets in the same order every time


def _alone(limits: Limits) -> None:
    """Leaves this process to wait for another, the first of a world of its own, in which it returns."""
    import resource

    libc = ctypes.CDLL(None, use_errno=True)
    user, group, root = os.getuid(), os.getgid(), os.geteuid() == 0
    _do(libc, "unshare", NAMESPACES if root else NAMESPACES | USERS)
    if not root:  # the root of these namespaces, and of nothing outside
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            _put(f"/proc/self/{name}", text)
    first = os.fork()
    if first:
        _do(libc, "prctl", DIES_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        os.closerange(3, 4096)  # the ends of the pipes are the other's alone
        for standard in range(3):
            os.close(standard)
        _, status = os.waitpid(first, 0)
        os._exit(os.waitstatus_to_exitcode(status) % 256)
    process = os.open("/proc", os.O_RDONLY)
    _rooted(libc, limits)
    for name, text in NO_IPC.items():
        _put(name, text, process)
    if root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _do(libc, "unshare", USERS)  # a user without a name and without rights over the namespaces just made
    _put("sys/user/max_user_namespaces", "0", process)
    os.close(process)
    with suppress(OSError):  # of a kernel without keys
        _do(libc, "syscall", KEYCTL[platform.machine()], NEW_KEYS, None)
    _do(libc, "prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _do(libc, "prctl", DIES_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_NPROC, (limits.processes, limits.processes))  # of this user, here


def _rooted(libc: Any, limits: Limits) -> None:
    """A root in memory with the system's folders, all of them read-only, and one empty folder, the current one."""
    _do(libc, "mount", None, b"/", None, REC | PRIVATE, None)
    base = next(folder for folder in ("/tmp", "/var/tmp", "/mnt") if os.path.isdir(folder))
    wanted: list[str] = []
    for path in (*SYSTEM, *DEVICES, *limits.folders):
        if os.path.lexists(path) and not any(path == one or path.startswith(one + "/") for one in wanted):
            wanted.append(path)
    held = {path: os.open(path, os.O_PATH | os.O_NOFOLLOW) for path in wanted}  # they may lie below `base`
    _do(libc, "mount", b"tmpfs", base.encode(), b"tmpfs", NOSUID | NODEV, b"size=1m,nr_inodes=2k,mode=755")
    os.makedirs(base + HOME)  # before what is read, some of which may lie below it: an interpreter in /tmp
    size = f"size={8 * limits.file},nr_inodes=4k,mode=1777".encode()
    _do(libc, "mount", b"tmpfs", (base + HOME).encode(), b"tmpfs", NOSUID | NODEV, size)
    for path, found in held.items():
        os.makedirs(os.path.dirname(base + path), exist_ok=True)
        if stat.S_ISLNK(os.fstat(found).st_mode):
            os.symlink(os.readlink(path), base + path)
            continue
        if stat.S_ISDIR(os.fstat(found).st_mode):
            os.makedirs(base + path, exist_ok=True)
        else:
            os.close(os.open(base + path, os.O_CREAT | os.O_WRONLY))
        _do(libc, "mount", f"/proc/self/fd/{found}".encode(), (base + path).encode(), None, BIND | REC, None)
        if path not in DEVICES:
            only = (ctypes.c_uint64 * 4)(RDONLY | NOSUID | NODEV, 0, 0, 0)
            _do(libc, "syscall", MOUNT_SETATTR, -100, (base + path).encode(), RECURSIVE, only, ctypes.sizeof(only))
    os.chdir(base)
    _do(libc, "syscall", PIVOT_ROOT[platform.machine()], b".", b".")
    _do(libc, "umount2", b".", DETACH)
    os.chdir("/")
    _do(libc, "mount", None, b"/", None, REMOUNT | BIND | RDONLY | NOSUID | NODEV, None)
    os.chdir(HOME)


def _bounded(limits: Limits) -> None:
    import resource

    for name, most in (
        ("CPU", limits.cpu), ("AS", limits.memory), ("FSIZE", limits.file), ("NOFILE", limits.files), ("CORE", 0),
        ("MEMLOCK", 0), ("MSGQUEUE", 0),
    ):  # fmt: skip
        if (number := getattr(resource, f"RLIMIT_{name}", None)) is not None:
            highest = resource.getrlimit(number)[1]
            bound = most if highest == resource.RLIM_INFINITY else min(most, highest)
            with suppress(*(() if limits.isolate else (OSError, ValueError))):  # macOS bounds no address space
                resource.setrlimit(number, (bound, bound))


def _do(libc: Any, name: str, *arguments: Any) -> None:
    """A call of the C library. Raises `OSError` that names it."""
    numbers = [ctypes.c_ulong(one) if isinstance(one, int) and one >= 0 else one for one in arguments]
    if getattr(libc, name)(*numbers) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def _put(path: str, text: str, folder: int | None = None) -> None:
    """Writes a file of the kernel's."""
    number = os.open(path, os.O_WRONLY, dir_fd=folder)
    try:
        os.write(number, text.encode())
    finally:
        os.close(number)


def python(packages: bool) -> tuple[list[str], tuple[str, ...]]:
    """The interpreter as a command, and the folders that it reads; with those of its packages, if asked."""
    flags = ["-s", "-P", "-B", "-X", "utf8"]
    base = os.path.realpath(sys.base_prefix)
    if packages:
        # by its real folder: a link on the way there, as to an environment shared, leads nowhere in a jail
        prefix = os.path.realpath(sys.prefix)
        own = os.path.join(prefix, os.path.relpath(sys.executable, sys.prefix))
        return [own, *flags], (base, sys.base_prefix, prefix)
    own = getattr(sys, "_base_executable", sys.executable)
    return [os.path.realpath(own), *flags, "-S"], (base,)


def adopt() -> None:
    """Has the system give processes whose parent ended to this one, which can wait for them."""
    ctypes.CDLL(None).prctl(ADOPTS, 1, 0, 0, 0)


def parts(data: bytes) -> list[bytes]:
    """Data in pieces that a pipe takes whole or not at all."""
    return [data[at : at + select.PIPE_BUF] for at in range(0, len(data), select.PIPE_BUF)]
