"""Runs on a small exact world for pages, and how a page's data are read back."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import torch
from torch import Tensor

from iterref.exact.markov import world
from iterref.problem import Problem
from iterref.result import Result
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

INF = float("inf")
WORLDS = {noise: world(5, 3, noise=noise) for noise in ("absorbing", "uniform")}
REWARD = WORLDS["absorbing"][1]
MASK = 3
METHOD = "iterref:steps=3,moves=4,tries=2,early=0.5,decisions=1"
EVIL = '</script><img src="x" onerror="alert(1)"><!-- & \'quoted\''
VOID = {"meta", "input", "br", "wbr", "hr", "img", "link"}


class Reader(HTMLParser):
    """Every tag with its attributes, the text inside each kind of tag, and whether all that opened was closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.inside.setdefault(self.open[-1], []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def run(text: str = METHOD, watch: tuple[int, ...] = (), noise: str = "absorbing", **options: object) -> Result:
    reward = options.pop("reward", REWARD)
    problem = Problem(WORLDS[noise][0], reward, torch.zeros(4, 5), alpha=0.5)
    return sample(sampler_from_string(text), problem, watch=watch, **options)


def words(tokens: Tensor) -> list[str]:
    return [" ".join("abc"[token] for token in row) for row in tokens.tolist()]


def runs_of(text: str) -> list[dict]:
    """The documents that a page holds."""
    blocks = re.findall(r'<script type="application/json" id="run">(.*?)</script>', text, re.DOTALL)
    assert len(blocks) == 1
    return json.loads(blocks[0])["runs"]


def data_of(text: str) -> dict:
    """The steps of the one run of a page."""
    (run,) = runs_of(text)
    return run["steps"]


def whole(coded: dict) -> list:
    """Every step of a coded series."""
    steps = [coded["first"]]
    for step in coded["then"]:
        steps.append([merged(row, pairs) for row, pairs in zip(steps[-1], step, strict=True)])
    return steps


def merged(row: list[int], pairs: list[int]) -> list[int]:
    new = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return [new.get(place, token) for place, token in enumerate(row)]
