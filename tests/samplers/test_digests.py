"""A net under the rebuilding of the house: what runs gave before it, by digest (tokens, rewards, cost).

`python -m tests.samplers.test_digests` adds the entries that are missing: delete those that are meant to change.

The methods were renamed since (`trajectory` is `trajectory`, `guided` is `reward_draft`, and so on),
which changed no value but two: under uniform noise `iterref` with a plain draft and early moves makes all the moves
that it says. They used to be left out with the early times, at which spaced moves cannot see what is noise.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from iterref.exact.markov import world
from iterref.generation import generate
from iterref.problem import Problem
from iterref.registry import names
from iterref.result import Result
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support.partial import ByContent
from tests.support.variants import MASKED, VARIANTS, small

FILE = Path(__file__).with_name("digests.json")
CLONE = Path(__file__).parents[2] / "benchmarks" / "models" / "weights"  # models that only a clone has
CASES = [
    (noise, small(name, written))
    for noise in ("absorbing", "uniform")
    for name in names()
    for written in ("", *VARIANTS.get(name, ()))
] + [("absorbing", small(name, written)) for name, variants in MASKED.items() for written in variants]
TEXTS = [
    (model, method)
    for model, methods in {
        "tiny-news": [
            "ancestral:steps=8,order=confidence",
            "iterref",
            "trajectory:order=confidence,span=0.5",
            "smc:particles=4",
            "svdd:tries=4",
            "svdd:tries=4,value=posterior",
            "best_of_n:order=confidence",
            "particle_gibbs:particles=4",
            "tempering",
            "waste_free",
            "select_refine",
            "metropolis",
            "mtm",
            "remdm",
        ],
        "tiny-books": ["iterref", "published", "smc:order=bounded"],
        "tiny-books-uniform": ["iterref", "smc", "remdm"],
    }.items()
    for method in methods
]
UNBOUNDED = ("mtm", "published")  # with their options as they are
PROMPTS = {
    "tiny-news": [
        "police arrested two men in london on monday after a robbery at a bank .",
        "the storm hit the coast of florida on friday and left thousands without power .",
    ]
}


def words(completions: list[str]) -> list[float]:
    return [-abs(len(text.split()) - 7) - 0.1 * text.count("e") for text in completions]


def digest(result: Result) -> str:
    asked = result.asked
    said = [result.tokens.tolist(), [f"{r:.6f}" for r in result.rewards.tolist()], result.best.tokens.tolist(),
            [f"{value:.4f}" for value in (asked.nfe, asked.reward_calls, asked.depth)]]  # fmt: skip
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def on_world(noise: str, method: str) -> str:
    canvas = torch.tensor([[0, 1, 3, 3, 3], [2, 0, 1, 0, 3], [0, 0, 0, 0, 0], [1, 2, 3, 0, 1]])
    free = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    problem = Problem(world(5, 4, 3, noise)[0], ByContent(), canvas, free, alpha=0.5, forbidden=[2])
    return digest(sample(sampler_from_string(method), problem, seed=1, rows=[10, 11, 12, 13]))


def on_text(model: str, method: str) -> str:
    budget = 64 if ":" not in method and method not in UNBOUNDED or method == "smc:order=bounded" else None
    prompts = PROMPTS.get(model, ["the ship", "she said"])
    folder = CLONE / model if (CLONE / model).is_dir() else model
    return digest(generate(folder, prompts, reward=words, sampler=method, seed=3, budget=budget))


def key(where: str, method: str) -> str:
    return f"{where} {method}"


@pytest.mark.parametrize("noise, method", CASES, ids=lambda value: value)
def test_a_run_on_a_world_gives_what_it_gave(noise, method):
    assert on_world(noise, method) == json.loads(FILE.read_text())[key(noise, method)]


@pytest.mark.parametrize("model, method", TEXTS, ids=lambda value: value)
def test_a_run_on_texts_gives_what_it_gave(model, method):
    assert on_text(model, method) == json.loads(FILE.read_text())[key(model, method)]


if __name__ == "__main__":
    found = json.loads(FILE.read_text())  # an entry that is to change is deleted first
    found |= {key(*case): on_world(*case) for case in CASES if key(*case) not in found}
    found |= {key(*case): on_text(*case) for case in TEXTS if key(*case) not in found}
    FILE.write_text(json.dumps(found, indent=0) + "\n")
