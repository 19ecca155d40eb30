"""Whatever the bytes: files, options and config files work, or are refused in one sentence; nothing hangs or traces."""

from __future__ import annotations

import gzip
import io
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks import records
from benchmarks.tasks import constraints, steering
from iterref import cli, generation, loading
from iterref.cli import reading
from iterref.hub import read_json
from iterref.registry import names
from iterref.samplers.strings import sampler_from_string
from iterref.training.data import read_pairs
from tests.support.fakes import FakeModel

FEW = settings(max_examples=30, deadline=None)
RAN = "the run begins here"

# --- what comes in ----------------------------------------------------------------------------------------------------

NASTY = st.sampled_from([
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b'"',
    b"\\", b"{", b"}", b"[", b"]", b",", b"\t", b"NaN", b"1e999", b"-0", b"null", b"\\ud800", b"\\u0000", b"\x1f\x8b",
    b"[" * 3000, b"9" * 5000, b"x" * 200_000, "\u2028\u0085".encode(), b"__proto__", b"../../x", b"=", b"'''",
])  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["document", "summary", "text", "reference", ""]) | st.text(max_size=5)
ROWS = st.dictionaries(FIELDS, st.text(max_size=20) | VALUES, max_size=4).map(lambda row: json.dumps(row).encode())


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Anything at all, or lines of JSON or of a table into which something nasty was put."""
    whole = draw(st.binary(max_size=60) | st.lists(ROWS | st.sampled_from([b"a,b", b"document,summary", b"x"])).map(
        b"\n".join
    ))  # fmt: skip
    for nasty in draw(st.lists(NASTY, max_size=2)):
        at = draw(st.integers(0, len(whole)))
        whole = whole[:at] + nasty + whole[at:]
    return whole


def told(read: Callable[[], Any]) -> str | None:
    """The one sentence by which a reader refuses; None where it reads."""
    try:
        read()
    except (ValueError, FileNotFoundError) as error:
        sentence = str(error)
        assert sentence and "\n" not in sentence and type(error) in (ValueError, FileNotFoundError), repr(error)
        return sentence
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def file_of(folder: Path, name: str, content: bytes) -> Path:
    file = folder / name
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return file


READERS: dict[str, Callable[[Path], Any]] = {
    "rows.jsonl": records.read,
    "rows.jsonl.gz": records.read,
    "table.csv": records.read,
    "table.tsv": records.read,
    "pairs.jsonl": lambda file: read_pairs([file]),
    "texts.txt": lambda file: read_pairs([file]),
    "texts.txt.gz": lambda file: read_pairs([file]),
    "puzzles.txt": constraints.read,
    "openings.txt": steering.read,
    "config.json": lambda file: read_json(file, "a model"),
    "prompts.txt": lambda file: reading.read_prompts(io.BytesIO(file.read_bytes())),
    "edits.jsonl": lambda file: reading.read_texts(io.BytesIO(file.read_bytes())),
}


@pytest.mark.parametrize("name", READERS)
@FEW
@given(files())
@example(b"")
@example(b'{"document": "\\ud800"}')
@example(b'{"document": ' + b"[" * 100_000)
@example(b'{"document": "a", "n": ' + b"9" * 5000 + b"}")
@example(b"\xff\xfe{\0}\0")
def test_files_are_read_or_refused_in_one_sentence(name: str, folder: Path, content: bytes) -> None:
    told(lambda: READERS[name](file_of(folder, name, content)))


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def no_run() -> Iterator[None]:
    """The small exact model in place of the bundled one, and nothing is drawn: a run ends where it would begin."""

    def begins(*given: Any, **options: Any) -> None:
        raise ValueError(RAN)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load", lambda name=None, **place: FakeModel())
        patch.setattr(generation, "sample", begins)
        patch.setattr(generation, "draw", begins)
        yield


def refusal(*arguments: str, text: str = "one\none two\n") -> str:
    """What a command that cannot finish says: one sentence behind exit code 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # names of before are still read
        result = CliRunner().invoke(cli.main, list(arguments), input=text)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    head, said, sentence = result.stderr.rstrip("\n").partition("Error: ")
    assert said and sentence and "\n" not in sentence and "Traceback" not in result.stderr, result.stderr
    return sentence


METHODS = st.builds(
    lambda name, options: name + ":" + ",".join(options),
    st.sampled_from([*names(), "iteref", ""]) | st.text(max_size=6),
    st.lists(
        st.builds(
            "{}={}".format,
            st.sampled_from("steps tries moves span span_steps n order x0_samples early block_length".split())
            | st.text(max_size=5),
            st.integers(-2, 300).map(str)
            | st.floats().map(str)
            | st.sampled_from(["true", "shared", "1+2", "0.5+0.1", "+", "1e999", "nan", "9" * 5000, "9" * 15, "²"])
            | st.text(max_size=5),
        ),
        max_size=3,
    ),
)
ROWS_ASKED = st.floats(max_value=300) | st.floats(min_value=1e7) | st.sampled_from(["nan", "inf", "1e999", "²", "1_0"])
BUDGETS = st.lists(
    ROWS_ASKED.map(str)
    | st.builds("{}={}".format, st.sampled_from(["total", "price", "depth", "nfe"]), ROWS_ASKED)
    | st.text(max_size=5),
    max_size=3,
).map(",".join)
NAMES = st.sampled_from(["consensus", "length", "rouge", "http", "https://", "mine.py", ""])  # none loads a network
REWARDS = st.builds("{}{}{}".format, NAMES, st.sampled_from([":", ""]), st.text(max_size=8))


def typed(text: str) -> str:
    """As an argument arrives: without NUL, other bytes than UTF-8 as lone surrogates."""
    return text.replace("\0", "\udcff").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


@FEW
@given(METHODS | st.text(max_size=20))
@example("iterref:steps=" + "9" * 15)
@example("iterref:span=nan")
@example("smc:particles=1000000000")
@example("iterref:span=0")  # old strings are translated, with a warning
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_methods_are_run_or_refused_in_one_sentence(method: str) -> None:
    refusal("generate", "--reward", "length", f"--sampler={typed(method)}")
    told(lambda: sampler_from_string(method))


@FEW
@given(BUDGETS, st.sampled_from(names()))
@example("1e308", "iterref")
@example("inf,inf", "smc")
@example("total=inf,price=0", "best_of_n")
@example("nan", "iterref")
@example("64,1e400", "iterref")
def test_budgets_are_spent_or_refused_in_one_sentence(budget: str, method: str) -> None:
    refusal("generate", "--reward", "length", "--sampler", method, f"--budget={typed(budget)}")


@FEW
@given(REWARDS | st.text(max_size=12))
@example("consensus:n=²")
@example("length:" + "9" * 5000)
@example("http://[::1")
@example("http://user:password@host/")
def test_rewards_are_taken_or_refused_in_one_sentence(reward: str) -> None:
    sentence = refusal("generate", "--sampler", "ancestral", f"--reward={typed(reward)}")
    assert "password" not in sentence


@FEW
@given(st.sampled_from(["alpha", "temperature", "seed", "max-rows", "length", "count", "dtype", "device", "start"]),
       st.text(max_size=6) | st.floats().map(str) | st.integers(-2, 5).map(str))  # fmt: skip
def test_options_are_taken_or_refused_in_one_sentence(option: str, value: str) -> None:
    refusal("generate", "--reward", "length", f"--{option}={typed(value)}")


TOML = st.builds(
    "{} = {}\n".format,
    st.sampled_from(["alpha", "budget", "method", "reward", "seed", "json", "out", "html", "max-rows", "count"])
    | st.text(max_size=4),
    VALUES.map(json.dumps) | st.sampled_from(["1979-05-27", "inf", "nan", "0x10", "{a = 1}", '"a\\u0000b"', "["]),
)


@FEW
@given(st.lists(TOML, max_size=3).map(lambda lines: "".join(lines).encode()) | files())
@example(b"a = " + b"[" * 5000)
@example(b'out = "a\\u0000b"')
@example(b'html = "a\\u0000b"')
@example(b"out = inf")
@example(b"seed = " + b"9" * 5000)
@example(b"alpha = " + b"9" * 400)
def test_config_files_are_read_or_refused_in_one_sentence(folder: Path, content: bytes) -> None:
    file = file_of(folder, "run.toml", content)
    refusal("generate", "--reward", "length", "--config", str(file))


@FEW
@given(files())
@example(b"one\n\xff\n")
@example(b'{"document": "a\\u0000"}')
def test_input_is_read_or_refused_in_one_sentence(content: bytes) -> None:
    refusal("generate", "--reward", "length", text=content)
