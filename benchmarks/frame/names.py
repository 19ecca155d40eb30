"""Names of before 0.2 in the CSV files of finished runs, read as what they are called now. Figures stay as they are.

    denoiser_rows  ->  nfe          iterref:kernel=trajectory,tries=1  ->  trajectory:tries=1
"""

from __future__ import annotations

import re
from functools import lru_cache

from iterref import legacy, registry

COLUMNS = {"denoiser_rows": "nfe", "reward_rows": "reward_calls"}  # also with _made, _sd or _half behind
ACCOUNTS = {"denoiser": "nfe"}
# Two fixed strings that stand in the tables of several tasks: spaced moves, and large spans drawn at once.
SPACED = "iterref:objective=maximise"
SPANS = "iterref:tries=16,decisions=1,span=1.0+0.75+0.5,spacing=0,objective=maximise"
METHOD = re.compile(r"(drafts\+)?([^@]*)(@.*)?")  # as the tasks write one, with where it starts and its temperature


def column(name: str) -> str:
    """What a column is called now."""
    for old, new in COLUMNS.items():
        if name == old or name.startswith(f"{old}_"):
            return new + name.removeprefix(old)
    return name


@lru_cache(maxsize=4096)
def method(text: str) -> str:
    """How a method is written now."""
    found = METHOD.fullmatch(text)
    if found is None:
        return text
    before, written, behind = (part or "" for part in found.groups())
    return before + legacy.translated(written, options_of)[0] + behind


@lru_cache(maxsize=64)
def options_of(name: str) -> frozenset[str]:
    """The options of a method, none for one that is not there."""
    return frozenset(registry.entry("samplers", name).options) if name in registry.names() else frozenset()
