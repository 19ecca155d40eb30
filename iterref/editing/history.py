"""History: the tree of every state that an editing session has reached; nothing in it is ever overwritten.

    0 start  ->  1 refine strength=0.3  ->  2 vary ...
             ->  5 infill                                a branch: any earlier node may be gone on from

A node's random numbers come from (seed, its path): the place of each of its ancestors among the children of its parent.
So the same calls make the same texts, in whatever order the branches are grown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from hashlib import blake2b
from math import inf
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from iterref.budget import Cost
from iterref.files import write_whole
from iterref.numbers import whole_number
from iterref.random import MASK, derive
from iterref.result import Result

FORMAT = "iterref-history-3"
PLAIN = ("id", "parent", "operation", "options", "texts", "path", "kept", "sources")


@dataclass(frozen=True, eq=False)
class Node:
    """One state of B texts: `tokens` (B, L) long, `texts`, `rewards` (B,) and `drift` (B,) from the first texts.
    `operation` with its `options` made it out of the node `parent`. `cost` is what the operation asked for a sample,
    `spent` what the whole session had by then. `kept` are rows for which it found nothing allowed, so that the parent's
    text stands; `sources` (B,) the nodes that the rows of a "pick" come from. `result` is the run behind the node, with
    its trace, kept in memory only; alternatives share theirs."""

    id: int
    parent: int | None
    operation: str
    options: dict[str, Any]
    tokens: Tensor
    texts: list[str]
    rewards: Tensor
    drift: Tensor
    path: tuple[int, ...] = ()
    cost: Cost = field(default_factory=Cost)
    spent: Cost = field(default_factory=Cost)
    kept: tuple[int, ...] = ()
    sources: tuple[int, ...] | None = None
    result: Result | None = field(default=None, repr=False)

    def on(self, device: torch.device) -> Node:
        """The same node with its tensors on a device."""
        tokens, rewards, drift = (x.to(device) for x in (self.tokens, self.rewards, self.drift))
        return replace(self, tokens=tokens, rewards=rewards, drift=drift)

    def __str__(self) -> str:
        options = " ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.id} {self.operation}" + (f" {options}" if options else "")


@dataclass
class History:
    """All nodes of a session; a node's number is its place in `nodes`, and no node comes before its parent. `about`
    tells what they were made with: the model, the prompts, the reward and the bound on the drift."""

    nodes: list[Node] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, node: int) -> Node:
        """The node of a number. Raises `ValueError` where there is none."""
        node = whole_number("node", node, "pass the number of a node")
        if not 0 <= node < len(self.nodes):
            raise ValueError(f"there is no node {node}: the history has nodes 0 to {len(self.nodes) - 1}")
        return self.nodes[node]

    def children(self, node: int) -> list[Node]:
        return [other for other in self.nodes if other.parent == node]

    def next_path(self, node: int) -> tuple[int, ...]:
        return (*self[node].path, len(self.children(node)))

    def add(self, node: Node) -> Node:
        """Records a node; its number, its path and what the session has spent are set here."""
        path = () if node.parent is None else self.next_path(node.parent)
        spent = (self.nodes[-1].spent if self.nodes else Cost()) + node.cost
        node = replace(node, id=len(self.nodes), path=path, spent=spent)
        self.nodes.append(node)
        return node

    def best(self) -> tuple[Tensor, Tensor]:
        """The node (B,) long of each row's highest reward, the earliest of equals, and that reward (B,)."""
        rewards = torch.stack([node.rewards for node in self.nodes])
        top = rewards.amax(0)
        return (rewards == top).long().argmax(0), top

    def rows(self, nodes: Sequence[int]) -> tuple[Tensor, list[str], Tensor, Tensor]:
        """Tokens, texts, rewards and drift of the rows at a node each."""
        found = [self[node] for node in nodes]
        tokens, rewards, drift = (
            torch.stack([getattr(node, name)[row] for row, node in enumerate(found)])
            for name in ("tokens", "rewards", "drift")
        )
        return tokens, [node.texts[row] for row, node in enumerate(found)], rewards, drift

    def tree(self, row: int | None = None) -> str:
        """The tree as text, one line a node: mean reward and drift, or those of one row with its text."""
        if not self.nodes:
            return "an empty history"
        size = len(self.nodes[0].texts)
        if row is not None and not 0 <= (row := whole_number("row", row, "pass the number of a row")) < size:
            raise ValueError(f"there is no row {row}: the rows are 0 to {size - 1}")
        below: dict[int | None, list[Node]] = {}
        for node in self.nodes:
            below.setdefault(node.parent, []).append(node)
        lines, waiting = list[tuple[str, Node]](), [("", "", self.nodes[0])]
        while waiting:
            lead, branch, node = waiting.pop()
            lines.append((f"{lead}{branch}{node}", node))
            inner = lead + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
            children = below.get(node.id, [])
            kinds = ["├─ "] * (len(children) - 1) + ["└─ "]
            waiting += [(inner, kind, child) for kind, child in zip(kinds, children, strict=False)][::-1]
        width = max(len(head) for head, _ in lines)
        told = []
        for head, node in lines:
            means = (float(part.mean() if row is None else part[row]) for part in (node.rewards, node.drift))
            told.append("{:<{}}  reward {:.3f}  drift {:.2f}".format(head, width, *means))
            told[-1] += "" if row is None else f"  {node.texts[row]}"
        return "\n".join(told)

    def __str__(self) -> str:
        return self.tree(0 if self.nodes and len(self.nodes[0].texts) == 1 else None)

    def save(self, path: str | Path) -> None:
        """Writes a head line, one line a node and a digest of them all, whole or not at all; a reward of -inf is the
        string "-inf"."""
        lines: list[dict[str, Any]] = [{"format": FORMAT, "about": self.about}]
        for node in list(self.nodes):  # while others add to them
            entry = {name: getattr(node, name) for name in PLAIN}
            entry |= {"tokens": node.tokens.tolist(), "drift": node.drift.tolist()}
            entry["rewards"] = [str(value) if value == -inf else value for value in node.rewards.tolist()]
            lines.append(entry | {"cost": astuple(node.cost), "spent": astuple(node.spent)})
        body = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_whole(Path(path), body + json.dumps({"digest": _digest(body)}) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Reads what `save` wrote. Raises `ValueError` for a file that is no history, or not as it was written."""
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        *lines, last = text.removesuffix("\n").split("\n")  # and not where else `str.splitlines` cuts
        try:
            head, digest = json.loads(lines[0] if lines else last), json.loads(last).get("digest")
            form = head["format"]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"{path} is no history or damaged: give a file that a history's save wrote") from None
        if form != FORMAT:
            raise ValueError(f"{path} is written as {form!r}, which is not {FORMAT!r}: begin a session with its texts")
        if digest != _digest("".join(f"{line}\n" for line in lines)):
            raise ValueError(f"{path} is damaged: restore a copy, or begin a session with the texts")
        nodes = []
        for entry in map(json.loads, lines[1:]):
            found = {name: entry[name] for name in PLAIN} | {name: Cost(*entry[name]) for name in ("cost", "spent")}
            found |= {name: None if entry[name] is None else tuple(entry[name]) for name in ("path", "kept", "sources")}
            for name in ("rewards", "drift"):
                found[name] = torch.tensor([*map(float, entry[name])], dtype=torch.float64)
            nodes.append(Node(**found, tokens=torch.tensor(entry["tokens"])))
        return cls(nodes, head["about"])


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def node_seed(seed: int, path: tuple[int, ...]) -> int:
    """The seed of the operation that makes the node of a path, in [0, 2^64)."""
    key = derive((seed & MASK, seed >> 32), "editing")
    for place in path:
        key = derive(key, place)
    return key[0] | key[1] << 32


class Turn:
    """A lock that lets the operations of one session take turns; a copy has a lock of its own."""

    def __init__(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        return Turn, ()
