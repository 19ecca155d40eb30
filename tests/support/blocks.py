"""The Python blocks of pages, each run alone in an empty folder, and the outputs that stand below them.

    python -m tests.support.blocks [PAGE ...]      writes outputs that differ anew, of all pages unless named

A block with weights of the hub runs on a stand-in: a tiny checkpoint of the same format with random weights, on a CPU,
with a quarter of the positions and of the budget.
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from iterref.loading import load
from iterref.serving.asked import Settings
from tests.support import dream, gemma, llada
from tests.support.serving import served
from tests.support.shown import recorded, texts_of, without_rewards

ADDRESS = "http://127.0.0.1:8000/v1"  # of the server on the page on serving
DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n```\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
SIZES = re.compile(r"(?:length=|budget=)[\d(), ]*\d")
SHARED = TemporaryDirectory(prefix="stand-ins")
QUESTION = "Ann had 7 clips and sold 4 . How many clips ? 3".split()  # the words of the stand-in for LLaDA


def _llada(folder: Path) -> None:
    known = list(dict.fromkeys([*QUESTION, *llada.NAMES]))
    names = [*known[13:], *known[:13]]  # in this order the weights give the answer only where a reward looks for it
    special = {"mask_token_id": llada.MASK, "eos_token_id": llada.END, "pad_token_id": llada.END}
    llada.checkpoint(folder, names, vocab=len(names), **{key: names.index(name) for key, name in special.items()})


def _gemma(folder: Path) -> None:
    """With a token a byte, in which JSON can be written."""
    names = [name for name in gemma.WORDS if name.startswith("<") or name.endswith("|>")]
    vocabulary = [*names, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens = Tokenizer(models.BPE({piece: at for at, piece in enumerate(vocabulary)}, []))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    gemma.made(len(vocabulary), 32, False, max_position_embeddings=256).save_pretrained(folder)
    gemma.tokenizer_files(folder, tokens, names)


STAND_INS: dict[str, Callable[[Path], Any]] = {
    "GSAI-ML/LLaDA-8B-Instruct": _llada,
    "Dream-org/Dream-v0-Instruct-7B": dream.checkpoint,
    "google/diffusiongemma-26B-A4B-it": _gemma,
}


@cache
def stand_in(name: str) -> Path:
    """The folder of a tiny checkpoint in the format of one on the hub."""
    folder = Path(SHARED.name) / name.replace("/", "-")
    folder.mkdir()
    STAND_INS[name](folder)
    return folder


@contextmanager
def started(page: str) -> Iterator[str]:
    """The address of a server as the text of a page starts one."""
    [(reward, nfe)] = re.findall(r"^iterref serve tiny-news --reward (\S+) --nfe (\d+)$", page, re.MULTILINE)
    settings = Settings(reward=reward, nfe=int(nfe))
    with served(load("tiny-news"), [reward], name="tiny-news", settings=settings) as address:
        yield address


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """The blocks of a page of docs/, each with the output that is shown below it, "" where none is."""
    yield from BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


def output(code: str) -> str:
    """What a block prints in a folder with no more than the benchmarks of a clone, on stand-ins and the CPU."""
    for name in STAND_INS:
        if f'"{name}"' in code:
            code = code.replace(f'"{name}"', repr(str(stand_in(name)))).replace('device="cuda"', 'device="cpu"')
            code = SIZES.sub(lambda size: re.sub(r"\d+", lambda one: str(int(one[0]) // 4), size[0]), code)
    out = StringIO()
    with TemporaryDirectory() as folder, chdir(folder), redirect_stdout(out):
        Path("benchmarks").symlink_to(DOCS.parent / "benchmarks")
        Path("block.py").write_text(code, encoding="utf-8")
        runpy.run_path("block.py", run_name="__main__")
    return out.getvalue()


@dataclass(frozen=True)
class Shown:
    """What a block printed, the tokens of its runs, and whether a text of theirs is in print."""

    printed: str
    tokens: list[Any]
    texts: bool


def run(code: str) -> Shown:
    """Runs a block."""
    with recorded(textual=False) as found:
        printed = output(code)
    results = [result for _, result in found]
    texts = any(text and text in printed for result in results for text in result.texts or ())
    return Shown(printed, [result.tokens.tolist() for result in results], texts)


def steers(code: str, shown: Shown) -> bool:
    """Whether a block draws other tokens without its reward than the `shown` ones and, where it prints texts, prints
    others."""
    with without_rewards():
        other = run(code)
    return shown.tokens != other.tokens and not (shown.texts and texts_of(shown.printed) == texts_of(other.printed))


def agrees(printed: str, shown: str) -> bool:
    """Whether a block printed what is shown: "..." stands for any text, a number of seconds for any other."""
    parts = re.split(r"\.\.\.|\d+\.\d+(?= s\b)", shown.strip())
    return re.fullmatch(".*?".join(map(re.escape, parts)), printed.strip(), re.DOTALL) is not None


def renewed(text: str, address: str = ADDRESS) -> str:
    """A page with what its blocks print now, wherever that is not what stands below them."""

    def block(found: re.Match[str]) -> str:
        code, shown = found[1], found[2]
        printed = output(code.replace(ADDRESS, address)) if shown else ""
        told = found[0].removesuffix(f"{shown}```")
        return found[0] if not shown or agrees(printed, shown) else f"{told}{printed.rstrip()}\n```"

    return BLOCK.sub(block, text)


def main(names: list[str]) -> None:
    """Writes the outputs on pages anew. What stands in prose beside them is for the reader of the difference."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    first = DOCS.parent / "README.md"
    for page in [first, *sorted(DOCS.glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        if (page.stem in names or not names) and BLOCK.search(text):
            if page.stem == "index":  # shows the same block
                [shared] = BLOCK.finditer(first.read_text(encoding="utf-8"))
                new = BLOCK.sub(lambda _, block=shared[0]: block, text)
            else:
                with started(text) if ADDRESS in text else nullcontext(ADDRESS) as address:
                    new = renewed(text, address)
            page.write_text(new, encoding="utf-8")
            print(f"{page.name}: {'written anew' if new != text else 'as it was'}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
