"""Sessions: a chain of edits over B texts, every state of which is kept and can be gone back to.

    refine   x ~> K_strength(x, .)          moves on the finished text: leaves pi invariant
    infill   x_S ~ pi(. | x_not S)          the marked positions S anew, every other token as it is
    vary     n independent refinements      recorded as siblings; the chain goes on from each row's best

pi(x) is proportional to p(x | prompt) exp(r(x) / alpha) over the session's free positions, and to nothing outside the
bound on the drift from the first texts (`iterref.editing.drift`). Taking the best of several states maximises; a chain
that never does samples pi wherever its kernel is exact (`iterref.kernels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from iterref.budget import Cost, Rows, budget_of, fit
from iterref.drafts import TextModel
from iterref.editing.copies import Copies
from iterref.editing.drift import Drift, text_lengths
from iterref.editing.history import History, Node, node_seed
from iterref.editing.marks import BRACKETS, Around, Frame, Marks, Regions, place, read
from iterref.editing.strength import strengthened
from iterref.generation import recommended
from iterref.models.base import MASKS
from iterref.particles import pick
from iterref.problem import Problem
from iterref.registry import parse
from iterref.rewards.base import Remembered, RewardError
from iterref.run import Interrupted, Result, sample
from iterref.samplers.base import Sampler

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True, eq=False)
class Desk:
    """What stays the same through a session: the model, the first texts' `problem` with the free positions and the
    reward of all states, the rows' `identities`, the seed, the `drift`, and the empty canvas `blank` (L,) if known."""

    model: TextModel
    problem: Problem
    identities: Tensor
    seed: int
    drift: Drift
    blank: Tensor | None


@dataclass(frozen=True, eq=False)
class Choice:
    """A state a row: the `nodes` (B,) that they come from, `tokens` (B, L), `texts`, `rewards` and `drift` (B,)."""

    nodes: tuple[int, ...]
    tokens: Tensor
    texts: list[str]
    rewards: Tensor
    drift: Tensor


@dataclass(frozen=True, eq=False)
class Editing:
    """A session at one of its nodes. Every operation records its nodes in the one `history` and returns the session at
    the newest; the session that it was called on still stands where it stood, so going on from it is a branch."""

    desk: Desk
    history: History
    at: int = 0

    @property
    def node(self) -> Node:
        """The node that the session stands at."""
        return self.history[self.at]

    @property
    def tokens(self) -> Tensor:
        """(B, L) long."""
        return self.node.tokens

    @property
    def texts(self) -> list[str]:
        """B texts."""
        return self.node.texts

    @property
    def rewards(self) -> Tensor:
        """(B,) float64."""
        return self.node.rewards

    @property
    def drift(self) -> Tensor:
        """The distance from the first texts, (B,) float64 in [0, 1]."""
        return self.node.drift

    @property
    def cost(self) -> Cost:
        """What the whole session has asked for a sample: all branches, the pool of drafts and the first reward."""
        return self.history.nodes[-1].spent

    @property
    def result(self) -> Result | None:
        """The run behind this node, with its trace; None for nodes that no run of this process made."""
        return self.node.result

    def refine(
        self,
        *,
        strength: float = 0.3,
        sampler: Sampler | str | None = None,
        budget: Rows | None = None,
        watch: Sequence[int] = (),
        progress: bool = False,
    ) -> Self:
        """Every row refined in place, by moves that re-noise at most a share `strength` in (0, 1] of its free tokens.

        `strength` replaces the method's span by itself and its half, which take turns (`strengthened`). `budget` is
        rows a sample for this step, as in `generate`. Raises `ValueError` for a strength out of range or a method
        without moves on finished texts.
        """
        method = self._fitted(strengthened(self._method(sampler), strength), budget)
        result = self._run(method, self.desk.problem, self.tokens, watch, progress)
        return self._record("refine", {"strength": strength, "sampler": str(method)}, result)

    def infill(
        self,
        marked: Sequence[str | None],
        *,
        strength: float | None = None,
        length: int | None = None,
        marks: Marks = BRACKETS,
        sampler: Sampler | str | None = None,
        budget: Rows | None = None,
        watch: Sequence[int] = (),
        progress: bool = False,
    ) -> Self:
        """The marked regions written anew, every other token kept bit for bit.

        `marked` are the rows' current texts with `marks` around one or more regions ("police [arrest two men] in
        london"), or None for a row to leave alone; a backslash makes a mark literal. The regions are drafted from noise
        by the method, or with `strength` refined from what stands there. A region keeps its number of tokens, or gets
        `length` of them; no text ends within a region. Raises `ValueError`, naming the row, for marks that do not pair
        up, a text that is not the row's own, or one that has no room for `length`.
        """
        if length is not None and (length < 1 or strength is not None):
            raise ValueError(
                "a region's length= (--tokens) is at least 1 token, for regions drafted anew: leave out the strength"
            )
        regions = self._regions(marked, length, marks)
        method = parse(self._method(sampler)) if strength is None else strengthened(self._method(sampler), strength)
        method = self._fitted(method, budget)
        asked, model = self.desk.problem, self.desk.model
        ends = {*self._blank().tolist(), *getattr(model, "ends", ())}
        problem = replace(
            asked,
            canvas=regions.canvas,
            free=regions.open & asked.opened,
            forbidden=sorted({*map(int, asked.forbidden), *ends}),
            reward=Remembered(Around(asked.reward, model.decode, regions.frames)),
        )
        start = None if strength is None else regions.canvas
        result = self._run(method, problem, start, watch, progress)
        options = {"strength": strength, "length": length, "sampler": str(method)}
        told = {name: value for name, value in options.items() if value is not None}
        return self._record("infill", told, result, regions.frames)

    def vary(
        self,
        n: int = 4,
        *,
        strength: float = 0.5,
        sampler: Sampler | str | None = None,
        budget: Rows | None = None,
        take: Literal["best", "first"] = "best",
        parent: bool = False,
        watch: Sequence[int] = (),
        progress: bool = False,
    ) -> Self:
        """`n` alternatives of every row, refined side by side from where it stands, all recorded as siblings.

        The chain goes on from each row's best by reward, or from the first of them, which is a sample of the law as
        `refine`'s is; with `parent` the state before competes too. `budget` is rows a sample for each alternative.
        Where the method maximises, an alternative is the best state of its chain, else its last one. Raises
        `ValueError` as `refine` does, and for a budget that buys no move.
        """
        if take not in ("best", "first"):
            raise ValueError(f"take is 'best' or 'first', got {take!r}")
        if n < 1:
            raise ValueError(f"vary makes at least one alternative, got n={n}")
        method = self._fitted(strengthened(self._method(sampler), strength), budget)
        if not method.iterations:
            raise ValueError("alternatives without a move are all the same: raise the budget or the method's moves")
        result = self._run(Copies(method, n), self.desk.problem, self.tokens, watch, progress)
        particles = result.particles
        assert particles is not None and particles.x_0 is not None and particles.reward is not None
        one = Cost(result.asked.denoiser / n, result.asked.reward / n, result.asked.depth / n)
        options = {"strength": strength, "sampler": str(method)}
        made = [
            self._add("vary", {"of": n, **options}, particles.x_0[copy], particles.reward[copy], one, result)
            for copy in range(n)
        ]
        rivals = [self.node, *made] if parent else made
        rewards = torch.stack([node.rewards for node in rivals])
        choice = rewards.argmax(0) if take == "best" else torch.full_like(rewards[0], int(parent)).long()
        return self._picked([rivals[k].id for k in choice.tolist()], {"of": take, "among": len(rivals)})

    def back(self, node: int | Sequence[int]) -> Self:
        """The session at an earlier node, to go on from there; or each of the B rows at a node of its own, such as
        `best().nodes`, which is recorded as a node. Raises `ValueError` for an unknown node."""
        if isinstance(node, int):
            return replace(self, at=self.history[node].id)
        if len(node) != len(self.texts):
            raise ValueError(f"there are {len(node)} nodes for {len(self.texts)} rows: give one, or one a row")
        return self._picked([self.history[other].id for other in node], {})

    def best(self) -> Choice:
        """The state of highest reward of every row, in the whole history; the earliest of equals."""
        nodes = tuple(self.history.best()[0].tolist())
        return Choice(nodes, *self._rows(nodes))

    def save(self, path: str | Path) -> None:
        """Writes the history, see `History.save`; `edit(model, History.load(path), ...)` goes on with it."""
        self.history.save(path)

    def __str__(self) -> str:
        lines = [str(self.history), f"at node {self.at}; in all {self.cost.denoiser:g} denoiser rows a sample"]
        if self.node.kept:
            lines.append(f"rows {', '.join(map(str, self.node.kept[:8]))} kept their text: no allowed one was found")
        lines += [f"  [{float(self.rewards[row]):.3f}] {text}" for row, text in enumerate(self.texts[:5])]
        return "\n".join(lines)

    def _run(
        self, method: Sampler, problem: Problem, start: Tensor | None, watch: Sequence[int], progress: bool
    ) -> Result:
        seed = node_seed(self.desk.seed, self.history.next_path(self.at))
        try:
            return sample(
                method, problem, seed=seed, rows=self.desk.identities, start=start, watch=watch,
                decode=self.desk.model.decode, show=self.desk.model, progress=progress,
            )  # fmt: skip
        except (RewardError, Interrupted) as error:
            # what is handed out in the session's place has cost what the session has
            partial, spent = error.partial, self.cost
            error.partial = replace(partial, cost=partial.cost + spent, asked=partial.asked + spent)
            raise

    def _method(self, sampler: Sampler | str | None) -> Sampler | str:
        return recommended(self.desk.model) if sampler is None else sampler

    def _fitted(self, method: Sampler, budget: Rows | None) -> Sampler:
        if budget is None:
            return method
        return fit(method, budget_of(budget).per(self.desk.problem.passes))

    def _record(
        self, operation: str, options: dict[str, Any], result: Result, frames: Sequence[Frame | None] = ()
    ) -> Self:
        node = self._add(operation, options, result.tokens, result.rewards, result.asked, result, frames)
        return replace(self, at=node.id)

    def _add(
        self, operation: str, options: dict[str, Any], tokens: Tensor, rewards: Tensor, cost: Cost, result: Result,
        frames: Sequence[Frame | None] = (),
    ) -> Node:  # fmt: skip
        """Records a child of this node; a row for which no allowed text was found keeps its own. Text that did not
        change stays as it was written: that around the regions of `frames`, and that of a row whose tokens stayed."""
        lost = torch.isneginf(rewards)
        tokens = torch.where(lost[:, None], self.tokens, tokens)
        kept = tuple(int(row) for row in lost.nonzero()[:, 0])
        texts = self.desk.model.decode(tokens)
        for row, same in enumerate((tokens == self.tokens).all(1).tolist()):
            frame = frames[row] if row < len(frames) else None
            whole = texts[row] if frame is None else frame.compose(texts[row])
            texts[row] = self.texts[row] if same else whole if whole != texts[row] else texts[row]
        return self.history.add(
            Node(
                0, self.at, operation, options, tokens, texts,
                torch.where(lost, self.rewards, rewards), self.desk.drift(tokens, self.desk.problem.rows),
                cost=cost, kept=kept, result=result,
            )
        )  # fmt: skip

    def _picked(self, sources: Sequence[int], options: dict[str, Any]) -> Self:
        """Records a child of this node whose rows come from other nodes."""
        rows = self._rows(sources)
        return replace(self, at=self.history.add(Node(0, self.at, "pick", options, *rows, sources=tuple(sources))).id)

    def _rows(self, nodes: Sequence[int]) -> tuple[Tensor, list[str], Tensor, Tensor]:
        """Tokens, texts, rewards and drift of the rows at a node each."""
        places = sorted(set(nodes))
        choice = torch.tensor([places.index(node) for node in nodes], device=self.tokens.device)
        found = [self.history[node] for node in places]
        tokens = pick(torch.stack([node.tokens for node in found]), choice)
        rewards = pick(torch.stack([node.rewards for node in found]), choice)
        drift = pick(torch.stack([node.drift for node in found]), choice)
        return tokens, [self.history[node].texts[row] for row, node in enumerate(nodes)], rewards, drift

    def _blank(self) -> Tensor:
        if self.desk.blank is None:
            raise ValueError("infilling needs the model's encode to take an empty text, which shows its padding")
        return self.desk.blank

    def _regions(self, marked: Sequence[str | None], length: int | None, marks: Marks) -> Regions:
        if isinstance(marked, str) or len(marked) != len(self.texts):
            given = "one string" if isinstance(marked, str) else f"{len(marked)} texts"
            raise ValueError(f"infill got {given} for {len(self.texts)} rows: give a text a row, or None")
        masks = getattr(self.desk.model, "masks", MASKS)
        read_texts = [None if text is None else read(text, row, marks, masks) for row, text in enumerate(marked)]
        if not any(read_texts):
            raise ValueError("every row is None: mark a region in at least one of them")
        blank, lengths = self._blank(), text_lengths(self.tokens, self.desk.blank).tolist()
        begins = self.desk.problem.opened.int().argmax(1).tolist()
        regions = place(self.desk.model, blank, self.tokens, lengths, read_texts, length, begins)
        closed = ~self.desk.problem.opened & (regions.open | (regions.canvas != self.desk.problem.canvas))
        if bool(closed.any()):
            row, position = closed.nonzero()[0].tolist()
            raise ValueError(
                f"row {row}, position {position}: the text would reach past the session's free positions: begin the "
                "session with more room"
            )
        return regions
