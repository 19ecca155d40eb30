"""Unit tests in a jail: right programs pass, wrong ones do not, and none gets out of what is promised."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from iterref.rewards import UnitTests
from iterref.rewards.sandbox import jail, runs
from iterref.rewards.unit_tests import code_of, read_tests
from tests.support.escapes import ESCAPES, SECRET

alone = pytest.mark.skipif("runs.obstacle()", reason="this system isolates nothing: runs.obstacle() says why")
QUICK: dict[str, Any] = {"seconds": 1, "timeout": 1.5}
DOUBLE = "def f(x):\n    return 2 * x\n"


def jailed() -> list[str]:
    """The processes in a jail that this one started, and those that nobody waits for; others have their own tests."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"what runs inside of a jail" not in place.read_bytes():
                continue
            above = ancestors(place.parent.name)
        except OSError:
            continue
        if str(os.getpid()) in above or not above:
            found.append(place.parent.name)
    return found


def ancestors(process: str) -> list[str]:
    """The processes that a process comes from, the first of the machine left out."""
    found = list[str]()
    while (process := Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]) not in ("0", "1"):
        found.append(process)
    return found


@alone
@pytest.mark.filterwarnings("ignore:UnitTests")
@pytest.mark.parametrize("name", ESCAPES)
def test_no_escape_passes_and_nothing_outside_is_touched(name: str, tmp_path: Path) -> None:
    """The test asks for what only a program that got out can say; the control is below."""
    outside, heard = tmp_path / "outside", list[Any]()
    outside.write_text(SECRET)
    victim = subprocess.Popen(["sleep", "60"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)  # who connects waits in line
        port = server.getsockname()[1]
        code = ESCAPES[name].replace("OUTSIDE", str(outside)).replace("PORT", f"{port}")
        code = code.replace("VICTIM", f"{victim.pid}")
        begun = time.monotonic()
        test = f"assert escape(7) == {SECRET!r}\nassert escape(7) == {SECRET!r}"
        (found,) = UnitTests(**QUICK).verdicts([code], tests=[test])
        with suppress(BlockingIOError):
            heard.append(server.accept())
    assert found.passed == 0, found
    assert time.monotonic() - begun < 15
    assert outside.read_text() == SECRET and [*tmp_path.iterdir()] == [outside]
    assert victim.poll() is None and not heard
    victim.kill()
    victim.wait()
    until = time.monotonic() + 2
    while jailed() and time.monotonic() < until:
        time.sleep(0.02)
    assert not jailed(), "a process outlived its jail"


@pytest.mark.skipif(sys.platform != "linux", reason="the escapes are written for Linux")
@pytest.mark.filterwarnings("ignore:UnitTests")
def test_without_isolation_the_same_programs_do_get_out(tmp_path: Path) -> None:
    """The control: what the jail keeps from happening happens without it."""
    outside = tmp_path / "outside"
    outside.write_text(SECRET)
    test, reward = f"assert escape(7) == {SECRET!r}", UnitTests(seconds=5, isolate=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name in ("read outside", "symlinks", "sockets", "traces others", "write outside"):
            victim = subprocess.Popen(["sleep", "60"])
            code = ESCAPES[name].replace("OUTSIDE", str(outside)).replace("VICTIM", f"{victim.pid}")
            (found,) = reward.verdicts([code.replace("PORT", f"{server.getsockname()[1]}")], tests=[test])
            assert found.passed == 1, (name, found)
            victim.kill()
            victim.wait()
    assert outside.read_text() == "written"


@alone
def test_a_right_program_passes_and_a_wrong_one_does_not() -> None:
    texts = [DOUBLE, "def f(x):\n    return x\n", "def g(x):\n    return 2 * x\n", "def f(x:\n"]
    tests = [["assert f(2) == 4", "assert f('a') == 'aa'", "assert f(0) == 0"]] * 4
    assert UnitTests()(texts, tests=tests) == [1, 0, 0, 0]
    assert UnitTests(value="share")(texts, tests=tests) == [1, 1 / 3, 0, 0]


@alone
def test_code_in_an_indented_fence_runs() -> None:
    text = "- so:\n  ```python\n  def f(x):\n      return 2 * x\n  ```"
    assert UnitTests()([text], tests=["assert f(2) == 4"]) == [1]


@alone
def test_the_forms_of_code_benchmarks() -> None:
    reward = UnitTests(given="prompts")
    human = {
        "prompts": ["def f(x):\n"], "entry_point": ["f"],
        "tests": ["def check(candidate):\n    assert candidate(3) == 6\n    assert candidate([1]) == [1, 1]\n"],
    }  # fmt: skip
    assert reward(["    return 2 * x\n"], **human) == [1] and reward(["    return x\n"], **human) == [0]
    pairs = {"inputs": ["2\n3\n", "5\n6\n"], "outputs": ["5\n", "11"]}
    added = "print(int(input()) + int(input()))"
    fenced = f"Here it is:\n```python\nprint(0)\n```\nno, rather\n```python\n{added}\n```\nwhich adds."
    told = UnitTests(value="share")([added, fenced, "print(5)", "print(5); raise SystemExit(1)"], tests=[pairs] * 4)
    assert told == [1, 1, 0.5, 0]
    later = "import math\ndef test_one():\n    assert f(math.e) == 2 * math.e\ndef test_two():\n    assert f(1) == 3\n"
    assert UnitTests()([DOUBLE], tests=[later]) == [0]
    assert UnitTests()([DOUBLE], tests=[later.replace("3\n", "2\n")]) == [1]


@alone
def test_data_objects_and_errors_pass_between_program_and_tests() -> None:
    code = """
from dataclasses import dataclass
from collections import Counter, namedtuple
@dataclass
class Stack:
    items: list
    def push(self, x): self.items.append(x); return self
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]
def same(x): return x
def squares(n):
    for i in range(n): yield i * i
def fail(): raise KeyError("no")
def point(): return namedtuple("P", "x y")(1, 2)
def counted(s): return Counter(s)
def grow(xs): xs.append(1); return xs
LIMIT = 12
"""
    tests = [
        "for x in (None, True, 3, 2.5, 'é', b'a', [1, (2, 'b')], {1: {2, 3}}, frozenset({1}), 1j, 10**400, '\\ud800',"
        " -(10**5000)):"
        "\n    assert same(x) == x and type(same(x)) is type(x)",
        "assert list(squares(4)) == [0, 1, 4, 9] and next(squares(1)) == 0",
        "try:\n    fail()\nexcept KeyError as error:\n    assert 'no' in str(error)\nelse:\n    assert False",
        "assert point() == (1, 2) and counted('aab') == {'a': 2, 'b': 1} and LIMIT == 12",
        "s = Stack([]); s.push(1).push(5)\nassert len(s) == 2 and s[1] == 5 and s.items == [1, 5]",
        "xs = [0]; assert grow(xs) == [0, 1] and xs == [0]",  # copies: a program cannot change what it is held against
        "same(lambda: 1)",
    ]
    reward = UnitTests()
    with pytest.warns(UserWarning, match="a test failed by itself .*a function cannot be handed to the program"):
        (found,) = reward.verdicts([code], tests=[tests])
    assert reward([code], tests=[["same(lambda: 2)"]]) == [0.0]  # said once
    assert found.outcomes[:-1] == ("passed",) * 6
    assert "tests pass plain data" in found.outcomes[-1]


@alone
def test_time_is_bounded_by_processor_and_by_clock_and_told() -> None:
    reward = UnitTests(seconds=1, timeout=1.5)
    with pytest.warns(UserWarning, match=r"^UnitTests: a program took more than 1.5 s, or 1 s of processor"):
        found = reward.verdicts(
            ["def f(x):\n    while True: pass", "import time\ntime.sleep(60)", DOUBLE],
            tests=[["assert f(2) == 4"] * 2] * 3,
        )
    assert [one.outcomes for one in found] == [("timed out", "not run")] * 2 + [("passed",) * 2]
    assert reward.timed_out == 2
    assert reward(["import time\ntime.sleep(60)"], tests=[["assert f(2) == 4"] * 2]) == [0] and reward.timed_out == 2


@alone
def test_a_test_that_never_ends_is_ended() -> None:
    with pytest.warns(UserWarning, match="counted in `timed_out`"):
        (found,) = UnitTests(**QUICK).verdicts([DOUBLE], tests=["while f(1) == 2: pass"])
    assert found.timed_out


@alone
def test_programs_run_side_by_side_and_each_is_judged_once() -> None:
    slow = [f"import time\ntime.sleep(0.5)\ndef f(x): return 2 * x + {n}" for n in (0, 1, 0, 2)]
    reward, begun = UnitTests(workers=3), time.monotonic()
    assert reward(slow, tests=["assert f(2) == 4"] * 4) == [1, 0, 1, 0]
    side_by_side = time.monotonic() - begun
    begun = time.monotonic()
    assert reward(slow, tests=["assert f(2) == 4"] * 4) == [1, 0, 1, 0]
    assert time.monotonic() - begun < 0.1 < side_by_side < 5


@alone
def test_the_sets_of_a_program_are_in_the_same_order_every_time() -> None:
    code = "def f():\n    return list({'a', 'b', 'c', 'd', 'e'})\n"
    command, same = [sys.executable, "-c", f"{code}print(f())"], {"PYTHONHASHSEED": "0"}
    first = subprocess.run(command, env=same, capture_output=True, text=True, check=True)
    assert UnitTests()([code], tests=[f"assert f() == {first.stdout.strip()}"]) == [1]


@alone
def test_packages_are_there_on_request() -> None:
    code = "import numpy\ndef f(x):\n    return int(numpy.sum(x))\n"
    assert UnitTests()([code], tests=["assert f([1, 2]) == 3"]) == [0]
    assert UnitTests(packages=True, memory=2048, timeout=20)([code], tests=["assert f([1, 2]) == 3"]) == [1]


def test_what_is_isolated_is_said() -> None:
    assert "not isolated: files, network, processes, the tests and the verdict" in UnitTests(isolate=False).isolation
    if not runs.obstacle():
        assert "no network" in UnitTests().isolation and "not isolated: the kernel itself" in UnitTests().isolation


def test_where_nothing_can_be_isolated_it_has_to_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "obstacle", lambda: "unshare: Operation not permitted")
    with pytest.raises(ValueError, match=r"cannot be isolated here \(unshare: .*\): isolate=False runs them with"):
        UnitTests()
    assert UnitTests(isolate=False)([DOUBLE], tests=["assert f(2) == 4"]) == [1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"value": "most"}, "unit tests have no value 'most': use one of all, share"),
        ({"seconds": 0}, "seconds=0, .*: give more than 0"),
        ({"memory": 10}, "memory=10, .*memory of at least 64 MiB"),
        ({"workers": 0}, "workers=0: give more than 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        UnitTests(isolate=False, **options)


@pytest.mark.parametrize("entry", ["", [], [""], 3, {"input": "1"}, ["assert f()", {"input": "", "output": ""}], None])
def test_tests_that_are_none_are_refused(entry: Any) -> None:
    with pytest.raises(ValueError, match="row 4 has the tests .*: give code with assertions, or "):
        read_tests(entry, None, "row 4")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("def check(candidate):\n    assert candidate(3) == 6\n", "ask nothing.*entry_point"),
        ("import unittest\nclass T(unittest.TestCase):\n    def test_a(self): assert f(1)\n", "ask nothing"),
        ("# of the function f\nMETADATA = {'author': 'a'}", "ask nothing"),
        ("def g(): assert f()\nif __name__ == '__main__':\n    g()\n", "ask nothing"),
        ("assert f(1", "no Python"),
        ({"fn_name": "f", "inputs": [[1]], "outputs": [2]}, "by its name.*write them as code"),
        ({"inputs": ["1", "2"], "outputs": ["1"]}, "2 inputs and 1 outputs"),
    ],
)
def test_tests_that_every_program_or_none_would_pass_are_refused(entry: Any, told: str) -> None:
    with pytest.raises(ValueError, match=f"row 4 has tests .*{told}"):
        read_tests(entry, None, "row 4")


def test_tests_are_read_as_data_sets_keep_them() -> None:
    lines = {"inputs": [["1", "2"], [3]], "outputs": ["3", "3\n"]}
    wanted = [{"input": "1\n2", "output": "3"}, {"input": "3", "output": "3\n"}]
    assert read_tests(lines, None, "row 0") == read_tests(json.dumps(lines), None, "row 0") == wanted
    assert read_tests('["assert f()"]', None, "row 0") == [{"code": "assert f()"}]
    assert read_tests("[f(x) for x in range(3)]", None, "row 0") == [{"code": "[f(x) for x in range(3)]"}]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="a reward by unit tests needs the column 'tests'"):
        UnitTests(isolate=False)(["f = 1"])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("a\n```python\nx = 1\n```\nb", "x = 1\n"),
        ("```\nx = 1\n```\n```py\ny = 2\n", "y = 2\n"),
        ("  ```python3\n  x = 1\n  ```", "  x = 1\n"),
        ("```Python\r\nx = 1\r\n```", "x = 1\r\n"),
        ('~~~python title="a"\nx = 1\n~~~', "x = 1\n"),
        ("```python\nx = 1\n```\nprints\n```\n1\n```\nby\n```bash\npython x.py\n```", "x = 1\n"),
    ],
)
def test_the_last_fenced_block_is_the_code(text: str, code: str) -> None:
    assert code_of(text) == code


@alone
@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can be another user")
def test_a_user_without_rights_is_isolated_as_well() -> None:
    """By the system's own Python, which other users can read; the jail needs nothing but the standard library."""
    python = "/usr/bin/python3"
    code = (
        "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.path.insert(0, sys.argv[1])\n"
        "from iterref.rewards.sandbox import runs; print(repr(runs.obstacle()))"
    )
    root = Path(runs.__file__).parents[3]
    readable = all(folder.stat().st_mode & 1 for folder in root.parents)
    if not Path(python).exists() or not readable:
        pytest.skip("no Python here that other users may run, or a folder that they may not enter")
    done = subprocess.run([python, "-B", "-c", code, str(root)], capture_output=True, text=True, cwd="/", check=False)
    if done.returncode:
        pytest.skip(f"the system's Python is another one: {done.stderr.strip().splitlines()[-1]}")
    assert done.stdout.strip() == "''"


@alone
def test_what_a_jail_reads_may_lie_where_its_empty_folder_is(tmp_path: Path) -> None:
    """Before: an environment or a checkout below /tmp was hidden by the folder in memory, and nothing could be run."""
    file = tmp_path / "file"
    file.write_text("seen")
    tmp_path.chmod(0o755)
    out, into = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    limits = jail.Limits(cpu=2, memory=2**30, processes=8, folders=(str(tmp_path),))
    child = jail.start(["/bin/cat", str(file)], limits, [null, into, null], str(tmp_path))
    os.close(into)
    os.close(null)
    assert os.read(out, 100) == b"seen"
    os.close(out)
    os.waitpid(child, 0)
