"""Programs that try to get out of a jail: each defines `escape`, which returns SECRET only where it got out.

OUTSIDE is a file with the secret, PORT a server that listens, VICTIM a process that is not to be touched. The test that
they are run under holds the secret, too, and so does its process.
"""

import re

SECRET = "SECRET-" + "93175"
LIBC = "import ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)"
PROGRAMS = r"""
=== fork bomb
import os
def escape(x):
    while True:
        try:
            os.fork()
        except OSError:
            pass
=== fork bomb at once
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
=== threads
import threading, time
def escape(x):
    while True:
        try:
            threading.Thread(target=time.sleep, args=(60,)).start()
        except RuntimeError:
            pass
=== endless output
import os, sys
def escape(x):
    while True:
        print('x' * 10**6)
        sys.stderr.write('y' * 10**6)
=== endless answer
import os
def escape(x):
    while True:
        os.write(4, b'\x00' * 2**16)
=== announced answer of 4 GB
import os
def escape(x):
    os.write(4, b'\xff' * 2**16)
=== huge memory
def escape(x):
    return len(bytearray(10**10)) and 'got it'
=== huge answer
def escape(x):
    return 'x' * (3 * 10**8)
=== huge number
def escape(x):
    return 10 ** 10**7
=== deep answer
def escape(x):
    a = []
    for _ in range(10**5):
        a = [a]
    return a
=== deep recursion
import sys
sys.setrecursionlimit(10**9)
def escape(x):
    return escape(x) + 1
=== shared memory
LIBC
def escape(x):
    n = libc.shmget(0, 2**30, 0o1600)
    return GOT if n >= 0 else None
=== large file
def escape(x):
    with open('f', 'wb') as f:
        for _ in range(64):
            f.write(b'x' * 2**20)
    return GOT
=== many files
def escape(x):
    for n in range(64):
        with open(f'f{n}', 'wb') as f: f.write(b'x' * 2**22)
    return GOT
=== raised limits
import resource as r
def escape(x):
    for n in (r.RLIMIT_CPU, r.RLIMIT_NPROC, r.RLIMIT_AS):
        r.setrlimit(n, (-1, -1))
    return GOT
=== sleep
import time
time.sleep(10**6)
=== signals ignored
import signal
for n in range(1, 65):
    try:
        signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
def escape(x):
    while True:
        pass
=== stops itself
import os, signal
def escape(x):
    os.kill(os.getpid(), signal.SIGSTOP)
    os.kill(0, signal.SIGSTOP)
=== waits for input
import sys
def escape(x):
    return sys.stdin.read() + open(0).read() + input()
=== ends at once
import os
os._exit(0)
=== ends when called
import os
def escape(x):
    os._exit(0)
=== sys.exit
import sys
sys.exit(0)
=== sys.exit when called
import sys
def escape(x):
    sys.exit(0)
=== kills itself
import os
def escape(x):
    os.kill(os.getpid(), 9)
=== ends by the machine
import ctypes
def escape(x):
    ctypes.string_at(0)
=== StopIteration
def escape(x):
    raise StopIteration
=== fake verdict everywhere
import os
def escape(x):
    for n in range(64):
        try:
            os.write(n, b'["passed"]\n'); os.write(n, b'passed')
        except OSError:
            pass
    os._exit(0)
=== fake answers
import os, struct
def escape(x):
    data = b'["ok", true]'
    while True:
        os.write(4, struct.pack('<I', len(data)) + data)
=== fake objects
import os, struct
def escape(x):
    data = b'["ok", ["o", 0]]'
    while True:
        os.write(4, struct.pack('<I', len(data)) + data)
=== no data
import os, struct
def escape(x):
    for data in (b'{', b'[]', b'["ok"]', b'["ok", ["z", 1]]', b'7'):
        os.write(4, struct.pack('<I', len(data)) + data)
=== always equal
class Always(object):
    def __eq__(self, other):
        return True
    def __ne__(self, other):
        return False
    def __hash__(self):
        return 0
    def __bool__(self):
        return True
    def __getattr__(self, name):
        return self
    def __call__(self, *a, **k):
        return self
def escape(x):
    return Always()
=== always equal text
class Always(str):
    def __eq__(self, other):
        return True
    def __ne__(self, other):
        return False
    def __hash__(self):
        return 0
    def __bool__(self):
        return True
    def __getattr__(self, name):
        return self
    def __call__(self, *a, **k):
        return self
def escape(x):
    return Always()
=== always equal number
class Always(int):
    def __eq__(self, other):
        return True
    def __ne__(self, other):
        return False
    def __hash__(self):
        return 0
    def __bool__(self):
        return True
    def __getattr__(self, name):
        return self
    def __call__(self, *a, **k):
        return self
def escape(x):
    return Always()
=== always equal list
class Always(list):
    def __eq__(self, other):
        return True
    def __ne__(self, other):
        return False
    def __hash__(self):
        return 0
    def __bool__(self):
        return True
    def __getattr__(self, name):
        return self
    def __call__(self, *a, **k):
        return self
def escape(x):
    return Always()
=== no assertions
import builtins
class Quiet(Exception):
    pass
builtins.AssertionError = Quiet
AssertionError = Quiet
builtins.isinstance = lambda *a: True
builtins.__debug__ if True else 0
def escape(x):
    raise Quiet
=== patched harness
import json, sys, os
json.dumps = lambda *a, **k: '["ok", true]'
for m in list(sys.modules.values()):
    for n in list(vars(m)):
        if n in ('encode', '_say', 'framed', 'tested', 'main'):
            setattr(m, n, lambda *a, **k: b'')
def escape(x):
    return 1
=== reads the tests
import gc, sys, os
def escape(x):
    seen = [repr(o) for o in gc.get_objects() if isinstance(o, (str, dict, list))]
    frame = sys._getframe()
    while frame:
        seen.append(repr(frame.f_globals) + repr(frame.f_locals))
        frame = frame.f_back
    seen += [repr(sys.argv), repr(os.environ)]
    key = 'SECRET' + '-'
    for s in seen:
        at = s.find(key)
        if at >= 0 and s[at + 7:at + 12].isdigit():
            return s[at:at + 12]
=== reads other processes
import glob
def escape(x):
    for p in glob.glob('/proc/*/*') + glob.glob('/proc/*/fd/*'):
        try:
            s = open(p, 'rb').read(2**20)
        except OSError:
            continue
        at = s.find(b'SECRET' + b'-')
        if at >= 0:
            return s[at:at + 12].decode()
=== shadowed functions
def len(x):
    return 0
def repr(x):
    return ''
def AssertionError(*a):
    return None
def isinstance(*a):
    return True
def escape(x):
    return True
=== read outside
def escape(x):
    return open('OUTSIDE').read()
=== write outside
def escape(x):
    s = open('OUTSIDE').read()
    open('OUTSIDE', 'w').write('written')
    return s
=== write anywhere
import os
def escape(x):
    for p in ('/x', '/usr/x', '/usr/lib/x', '/bin/x', '/etc/x', '/dev/x', '/etc/ld.so.cache'):
        try:
            open(p, 'a').write('x')
            return GOT
        except OSError:
            pass
=== symlinks
import os
def escape(x):
    os.symlink('OUTSIDE', 'a')
    os.symlink('/proc/1/root', 'b')
    os.symlink('../' * 20 + 'OUTSIDE', 'c')
    for p in ('a', 'c', 'b' + 'OUTSIDE'):
        try:
            return open(p).read()
        except OSError:
            pass
=== hard link
import os
def escape(x):
    os.link('OUTSIDE', 'a')
    return open('a').read()
=== open files
import os
def escape(x):
    for n in range(256):
        try:
            os.lseek(n, 0, 0); s = os.read(n, 2**20)
            if b'SECRET' in s:
                return s.decode()[-12:]
        except OSError:
            pass
=== devices
def escape(x):
    for p in ('/dev/mem', '/dev/kmsg', '/dev/sda', '/dev/vda', '/dev/shm/x', '/dev/pts/0', '/dev/tty'):
        try:
            open(p, 'ab')
            return GOT
        except OSError:
            pass
=== sockets
import socket
def escape(x):
    socket.create_connection(('127.0.0.1', PORT), 1).send(b'x')
    return GOT
=== name service
import socket
def escape(x):
    socket.getaddrinfo('example.org', 80)
    return GOT
=== kills others
import os
def escape(x):
    for p in (VICTIM, os.getppid(), *range(2, 40000)):
        try:
            os.kill(p, 9)
            if p > 1:
                return GOT
        except OSError:
            pass
=== kills all
import os
def escape(x):
    os.kill(-1, 9); os.killpg(0, 9)
=== kills by the C library
LIBC
def escape(x):
    libc.kill(libc.getppid(), 9); libc.kill(VICTIM, 9); libc.kill(-1, 9)
=== traces others
LIBC
def escape(x):
    for p in (VICTIM, 1, os.getppid()):
        if libc.ptrace(16, p, 0, 0) == 0:
            return GOT
=== outlives
import os, time
def escape(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(10**6)
        os._exit(0)
    return None
=== thread that outlives
import threading, time
threading.Thread(target=time.sleep, args=(10**6,)).start()
def escape(x):
    return None
=== becomes root
import os
def escape(x):
    os.setuid(0)
    return GOT
=== new namespaces
LIBC
def escape(x):
    for flag in (0x10000000, 0x00020000, 0x40000000, 0x20000000):
        if libc.unshare(flag) == 0:
            return GOT
=== mounts
LIBC
def escape(x):
    if libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) == 0 or libc.mount(None, b'/usr', None, 32 | 4096, None) == 0:
        return GOT
=== unmounts
LIBC
def escape(x):
    if libc.umount2(b'/usr', 2) == 0 or libc.chroot(b'/usr') == 0:
        return GOT
"""

PARTS = re.split(r"^=== (.*)\n", PROGRAMS.replace("GOT", repr(SECRET)).replace("LIBC", LIBC), flags=re.MULTILINE)[1:]
ESCAPES = dict(zip(PARTS[::2], PARTS[1::2], strict=True))
