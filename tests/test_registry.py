"""The registry: one file makes a sampler, a reward or a model family, and it is found everywhere."""

from __future__ import annotations

import ast
import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile

import pytest
from click.testing import CliRunner

import iterref
from iterref import registry
from iterref.cli import main
from iterref.cli.listed import contents
from iterref.engine.manifest import model_told
from iterref.registry import did_you_mean, names
from iterref.sources import REQUIRED, declared, options_of

EXAMPLES = Path(__file__).parents[1] / "examples"
ADDED = {"samplers": "independent", "rewards": "eight_words_that_keep", "models": "word_list"}
SOURCE = '''"""One."""

def short(): ...
class Options:
    """Those."""
    def __init__(self, a, *, b: int = 2) -> None:
        self.a = """
text at the margin
"""

    def other(self,
        x: str = ":",  # why
    ) -> None:
        return None


def long(
    *, c: int = 3,
) -> int:  # fmt: skip
    return c
'''
WORDS = ["apple", "angle", "maple", "eagle", "table"]


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a sampler, a reward, a model family and a bundled model of it, which the rooms are extended by."""
    packages = {room: getattr(iterref, room) for room in ADDED}
    before = {room: set(vars(package)) for room, package in packages.items()}
    for room, name in ADDED.items():
        (tmp_path / room).mkdir()
        copyfile(EXAMPLES / f"new_{room[:-1]}.py", tmp_path / room / f"{name}.py")
        monkeypatch.setattr(packages[room], "__path__", [*packages[room].__path__, str(tmp_path / room)])
    folder = tmp_path / "models" / "weights" / "five-letters"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "word-list", "words": WORDS}))
    (folder / "README.md").write_text("# five-letters: words of five letters\n")
    yield tmp_path
    for room, name in ADDED.items():
        sys.modules.pop(f"iterref.{room}.{name}", None)
        for new in set(vars(packages[room])) - before[room]:
            delattr(packages[room], new)


def test_names_are_the_files() -> None:
    helping = {"__init__", "base"}
    folder = Path(iterref.samplers.__path__[0])
    assert set(registry.names()) <= {file.stem for file in folder.glob("*.py")} - helping
    assert {"ancestral", "best_of_n", "metropolis", "iterref"} <= set(registry.names())
    assert {"classifier", "consensus", "length", "perplexity", "rouge"} <= set(registry.names("rewards"))
    assert {"mdlm", "llada", "masked_lm", "tiny_news"} <= set(registry.names("models"))
    assert {"tiny-news", "tiny-books"} <= set(registry.bundled("models")) and "prose" in registry.bundled("rewards")


@pytest.mark.parametrize("room", registry.ROOMS)
def test_what_is_read_of_a_file_is_what_it_has(room: str) -> None:
    for name, entry in registry.entries(room).items():
        one = entry.load()
        if room == "models":
            family = vars(sys.modules[f"iterref.models.{name}"])["FAMILY"]
            assert {field: getattr(family, field) for field in entry.facts} == entry.facts
        given = inspect.signature(one).parameters
        own = [key for key in given if room != "models" or given[key].kind is inspect.Parameter.KEYWORD_ONLY]
        assert list(entry.options) == [key for key in own if room != "models" or key not in registry.OF_EVERY_MODEL]
        assert all((given[key].default is inspect.Parameter.empty) == (entry.options[key] is REQUIRED) for key in own
                   if key in entry.options)  # fmt: skip
        assert entry.summary


def test_an_added_sampler_is_found_by_name_and_as_an_object(added: Path) -> None:
    sampler = iterref.sampler_from_string("independent:proposals=3,steps=4")
    assert str(sampler) == "independent:steps=4,proposals=3"
    assert "Independent" in dir(iterref.samplers)
    assert vars(iterref)["samplers"].Independent(proposals=3, steps=4) == sampler
    with pytest.raises(ValueError, match="did you mean 'independent'"):
        iterref.sampler_from_string("indpendent")


def test_an_added_model_and_reward_are_run_by_name(added: Path) -> None:
    texts = iterref.generate(
        "five-letters", ["", ""], reward="eight_words_that_keep", columns={"keep": ["apple", "maple"]},
        sampler="independent:steps=5,order=left", budget=20,
    ).texts  # fmt: skip
    assert texts is not None and len(texts) == 2
    stated = iterref.estimate("five-letters", [""], reward=len_reward, sampler="independent:steps=5", budget=20)
    assert stated.cost.nfe == 20 and str(stated.sampler) == "independent:steps=5,proposals=3"


def len_reward(completions: list[str]) -> list[int]:
    return list(map(len, completions))


def test_added_files_are_listed_and_taken_on_the_command_line(added: Path, tmp_path: Path) -> None:
    told = json.loads(CliRunner().invoke(main, ["ls", "--json"]).stdout)
    assert told["samplers"]["independent"]["options"]["proposals"] == 7
    assert told["rewards"]["eight_words_that_keep"]["summary"].startswith("Eight words")
    assert "word_list" in told["models"]
    assert told["models"]["five-letters"] == {"summary": "words of five letters", "bundled": True}
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"document": "", "keep": "apple"}) + "\n")
    command = ["generate", str(prompts), "--model", "five-letters", "--sampler", "independent:steps=2,proposals=2"]
    done = CliRunner().invoke(main, [*command, "--reward", "eight_words_that_keep", "--json"])
    assert done.exit_code == 0 and len(json.loads(done.stdout)["text"]) == 5, done.output
    wrong = CliRunner().invoke(main, [*command, "--reward", "eight_words_that_kept"])
    assert wrong.exit_code == 2 and "did you mean 'eight_words_that_keep'" in wrong.output


def test_the_manifest_knows_an_added_model_by_its_files(added: Path) -> None:
    before = model_told("five-letters")
    config = added / "models" / "weights" / "five-letters" / "config.json"
    text = config.read_text()
    config.write_text(text.replace("apple", "ankle"))
    after = model_told("five-letters")
    config.write_text(text)
    assert before["hash"] != after["hash"] and before == model_told("five-letters")


def test_without_the_folder_nothing_of_it_is_found() -> None:
    """The control of the tests above."""
    assert not set(ADDED.values()) & {name for room in registry.ROOMS for name in registry.names(room)}
    with pytest.raises(ValueError, match="unknown sampler 'independent'"):
        iterref.sampler_from_string("independent")
    with pytest.raises(FileNotFoundError, match="five-letters"):
        iterref.load("five-letters")


@pytest.mark.parametrize("name, most", [("sampler", 40), ("model", 60)])
def test_a_new_one_is_few_lines(name: str, most: int) -> None:
    code = (EXAMPLES / f"new_{name}.py").read_text().partition("\nif __name__")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= most


def test_a_new_reward_is_few_lines() -> None:
    source = (EXAMPLES / "new_reward.py").read_text()
    [function] = [node for node in ast.parse(source).body if getattr(node, "name", "") == ADDED["rewards"]]
    assert len(str(ast.get_source_segment(source, function)).splitlines()) <= 10


@pytest.mark.parametrize("said", ['Family("lists of words", ("word-list",))', 'Family(title="a" + "b")', "NAME"])
def test_a_family_that_says_nothing_is_named(added: Path, said: str) -> None:
    file = added / "models" / f"{ADDED['models']}.py"
    file.write_text(f"FAMILY = {said}\n")
    with pytest.raises(ValueError, match=rf"{file.name} does not say what it reads: write FAMILY = Family\(title="):
        iterref.load("five-letters")


def test_a_family_s_names_are_read_in_any_case(added: Path) -> None:
    file = added / "models" / f"{ADDED['models']}.py"
    file.write_text(file.read_text().replace('"word-list"', '"Word-List"'))
    assert iterref.load("five-letters").name == "five-letters"


def test_a_source_is_read_without_running_it(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text(SOURCE)
    assert options_of(file, "Options") == {"a": REQUIRED, "b": 2}
    assert declared(file, "long") == ("One.", {"c": 3})
    file.write_text('"""Two."""\n\ndef long(*, d=4):\n    return d\n')
    os.utime(file, ns=(1, 1))
    assert declared(file, "long") == ("Two.", {"d": 4})


def test_a_configuration_is_told_by_its_name_before_its_keys() -> None:
    sedd = {"graph": {}, "noise": {}, "model": {}, "tokens": 4}
    assert registry.family_of(sedd) == "sedd" and registry.family_of({**sedd, "model_type": "gpt2"}) is None
    assert registry.family_of({"model_type": "bert", "architectures": ["BertForMaskedLM"]}) == "masked_lm"
    assert registry.family_of({"model_type": "Dream", "architectures": ["DreamForMaskedLM"]}) == "dream"  # exact first
    assert registry.family_of({"_class_name": "AmusedPipeline"}) == "amused"
    assert registry.family_of({"format": "iterref-summarizer-1"}) == "tiny_news"
    assert {name for name in contents("models") if name.islower()} >= {"tiny-news", "mdlm"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("iteref", "iterref"), ("best-of-n", "best_of_n"), ("ITERREF", "iterref"), ("smcc", "smc"),
        ("BestOfN", "best_of_n"),
        ("gibbs", "particle_gibbs"), ("metropolis-hastings", "metropolis"), ("svd", "svdd"),
    ],
)  # fmt: skip
def test_a_slip_is_told_from_another_word(name: str, meant: str) -> None:
    assert did_you_mean(name, names()) == f": did you mean {meant!r}?"
    assert did_you_mean("langevin", names()) == did_you_mean("x", names()) == did_you_mean("mcmc", names()) == "."


def test_what_is_meant_is_the_nearest_and_no_guess() -> None:
    options = ["steps", "span_steps", "temperature", "block_length"]
    meant = {
        "step": "steps",
        "num_steps": "steps",
        "temp": "temperature",
        "block": "block_length",
        "span": "span_steps",
    }
    for name, known in meant.items():
        assert did_you_mean(name, options) == f": did you mean {known!r}?"
    assert (
        did_you_mean("left", ["left_side", "left_part"])
        == did_you_mean("seed", options)
        == did_you_mean("a", [])
        == "."
    )
