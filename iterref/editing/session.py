"""Sessions: a chain of edits over B texts, every state of which is kept and can be gone back to.

    refine   x ~> K_strength(x, .)          moves on the finished text: leaves pi invariant
    infill   x_S ~ pi(. | x_not S)          the marked positions S anew, every other token as it is
    vary     n independent refinements      recorded as siblings; the chain goes on from each row's best

pi(x) is proportional to p(x | prompt) exp(r(x) / alpha) over the free positions, and 0 outside the bound on the drift
(`iterref.editing.drift`). A chain that never takes the best of several states samples pi where its kernel is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from iterref.arguments import checked_budget, checked_sampler, checked_watch
from iterref.budget import BudgetLike, Cost, budget_of
from iterref.editing.drift import Drift
from iterref.editing.history import History, Node, Turn, node_seed
from iterref.editing.marks import BRACKETS, Around, Frame, Marks
from iterref.editing.sizes import Length, checked_length, judging, likeliest, opened
from iterref.editing.slots import log_probabilities, region_patterns, sized, within
from iterref.editing.strength import strengthened
from iterref.generation import method_of
from iterref.models.base import TextModel
from iterref.numbers import flag, name_rows, number, whole_number
from iterref.problem import Problem
from iterref.result import Best, Interrupted, Result
from iterref.rewards.base import RewardError
from iterref.rewards.memory import Remembered
from iterref.samplers.base import Sampler
from iterref.sampling import first_rows, sample
from iterref.turns import fit_turns


@dataclass(frozen=True, eq=False)
class Context:
    """What stays the same: the model, the first texts' `problem` with the free positions and the reward of all states,
    the rows' `identities`, the seed, the `drift`, the empty canvas `blank` (L,) if known, and what is told of all runs
    (`result.About`)."""

    model: TextModel
    problem: Problem
    identities: Tensor
    seed: int
    drift: Drift
    blank: Tensor | None
    about: dict[str, Any]
    turn: Turn = field(default_factory=Turn, repr=False)


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
    the newest; the session that it was called on still stands where it stood, so going on from it is a branch. Threads
    take turns: together their calls make what the same calls make one after the other."""

    context: Context
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
        self, *, strength: float = 0.3, sampler: Sampler | str | None = None, budget: BudgetLike | None = None,
        watch: Sequence[int] | None = None, progress: bool = False,
    ) -> Self:  # fmt: skip
        """Every row refined in place, by moves that re-noise at most a share `strength` in (0, 1] of its free tokens.
        `strength` replaces the method's span by itself and its half, which take turns (`strengthened`). Where the
        method maximises, a text is left only for one of a higher reward. `budget` is that of this step, as `generate`
        takes it. Raises `ValueError` for a strength out of range or a method without moves on finished texts."""
        strength = number("strength", strength, "pass one in (0, 1]")
        method = self._method(sampler, strength, budget)
        with self.context.turn:
            result = self._run(method, budget, self.context.problem, self.tokens, watch, progress)
            return self._at(self._add("refine", {"strength": strength, "sampler": str(method)}, result))

    def infill(
        self, marked: Sequence[str | None], *, strength: float | None = None, length: Length | None = None,
        regions: Any = None, marks: Marks = BRACKETS, sampler: Sampler | str | None = None,
        budget: BudgetLike | None = None, watch: Sequence[int] | None = None, progress: bool = False,
    ) -> Self:  # fmt: skip
        """The marked regions written anew, every other token kept bit for bit.

        `marked` are the rows' current texts with `marks` around one or more regions ("police [arrest two men] in
        london"), or None for a row to leave alone; a backslash makes a mark literal. The regions are drafted from noise
        by the method, or with `strength` refined from what stands there. A region keeps its number of tokens, or gets
        `length` of them, or, with a pair, from the first number to the second, whichever makes the best text within
        the budget (`iterref.editing.sizes`). No text ends within a region. The reward judges whole texts as the model
        writes them, whose case and blanks may be others than yours around the regions. `regions` is what they must be:
        a pattern as `generate` takes constraints, or a list with one for each region of a row; where it is `Choices`,
        the result has their log-probabilities, `slots`, and regions get the number of tokens that the choices take.
        Raises `ValueError`, naming the row, for marks that do not pair up, a text that is not the row's own, or one
        that has no room for `length`."""
        patterns = region_patterns(regions, self.context.problem)
        sizes = sized(patterns, self.context.model, checked_length("length", length), strength)
        if sizes is not None and strength is not None:
            raise ValueError("regions of a length= (--tokens) are drafted anew: leave out the strength")
        problem, model = self.context.problem, self.context.model
        layouts = opened(model, problem, self.context.blank, self.tokens, marked, marks, sizes)
        wide = problem.only(problem.rows.repeat(len(layouts)))
        ends = {*([] if self.context.blank is None else self.context.blank.tolist()), *getattr(model, "ends", ())}
        posed = replace(
            wide, canvas=torch.cat([one.canvas for one in layouts]), free=torch.cat([one.open for one in layouts]),
            forbidden=sorted({*map(int, problem.forbidden), *ends}),
            reward=Remembered(Around(problem.reward, model.decode, layouts[0].frames)),
        )  # fmt: skip
        method = self._method(sampler, strength, budget, posed, len(layouts))
        posed = within(posed, model, layouts, patterns)
        size = sizes and (sizes[0] if sizes[0] == sizes[1] else list(sizes))
        options = {"strength": strength, "length": size, "sampler": str(method)}
        told = {name: value for name, value in options.items() if value is not None}
        with self.context.turn:
            result = self._run(method, budget, posed, None if strength is None else posed.canvas, watch, progress)
            whole = result if len(layouts) == 1 else self._chosen(result, posed)
            whole = replace(whole, slots=log_probabilities(posed, model, patterns))
            return self._at(self._add("infill", told, whole, layouts[0].frames))

    def vary(
        self, n: int = 4, *, strength: float = 0.5, sampler: Sampler | str | None = None,
        budget: BudgetLike | None = None, take: Literal["best", "first"] = "best", parent: bool = False,
        watch: Sequence[int] | None = None, progress: bool = False,
    ) -> Self:  # fmt: skip
        """`n` alternatives of every row, refined side by side from where it stands, all recorded as siblings. The chain
        goes on from each row's best by reward, or from the first of them, which is a sample as `refine`'s is; with
        `parent` the state before competes too. `budget` is that of each alternative. Where the method maximises, an
        alternative is the best state of its chain, else its last one. Raises `ValueError` as `refine` does, and for a
        budget that buys no move."""
        if take not in ("best", "first"):
            raise ValueError(f"take is 'best' or 'first', got {take!r}")
        strength = number("strength", strength, "pass one in (0, 1]")
        n, parent = whole_number("n", n, "pass how many alternatives to make"), flag("parent", parent)
        if n < 1:
            raise ValueError(f"vary makes at least one alternative, got n={n}")
        # `auto` leaves a text only for a better one: alternatives are wanted where there is none, too
        method = self._method("iterref:objective=maximise" if sampler is None else sampler, strength, budget)
        if not method.iterations:
            raise ValueError("alternatives without a move are all the same: raise the budget or the method's moves")
        with self.context.turn:
            wide = self.context.problem.only(self.context.problem.rows.repeat(n))
            result = self._run(method, budget, wide, self.tokens.repeat(n, 1), watch, progress)
            options = {"of": n, "strength": strength, "sampler": str(method)}
            parts = zip(result.tokens.chunk(n), result.rewards.chunk(n), strict=True)
            made = [self._add("vary", options, replace(result, tokens=x, rewards=r), run=result) for x, r in parts]
            rivals = [self.node, *made] if parent else made
            rewards = torch.stack([node.rewards for node in rivals])
            choice = rewards.argmax(0) if take == "best" else torch.full_like(rewards[0], int(parent)).long()
            return self._picked([rivals[k].id for k in choice.tolist()], {"of": take, "among": len(rivals)})

    def back(self, node: int | Sequence[int]) -> Self:
        """The session at an earlier node, to go on from there; or each of the B rows at a node of its own, such as
        `best().nodes`, which is recorded as a node. Raises `ValueError` for an unknown node."""
        if isinstance(node, str) or not isinstance(node, Sequence | Tensor):
            return self._at(self.history[node])
        if len(node) != len(self.texts):
            raise ValueError(f"there are {len(node)} nodes for {len(self.texts)} rows: give one, or one a row")
        with self.context.turn:
            nodes = node.tolist() if isinstance(node, Tensor) else node
            return self._picked([self.history[other].id for other in nodes], {})

    def best(self) -> Choice:
        """The state of highest reward of every row, in the whole history; the earliest of equals."""
        nodes = tuple(self.history.best()[0].tolist())
        return Choice(nodes, *self.history.rows(nodes))

    def save(self, path: str | Path) -> None:
        """Writes the history, see `History.save`; `edit(model, History.load(path), ...)` goes on with it."""
        self.history.save(path)

    def __str__(self) -> str:
        lines = [str(self.history), f"at node {self.at}; in all {self.cost.nfe:g} NFE a sample"]
        if self.node.kept:
            lines.append(f"{name_rows(self.node.kept)} kept the text: no allowed one was found")
        lines += [f"  [{float(self.rewards[row]):.3f}] {text}" for row, text in enumerate(self.texts[:5])]
        return "\n".join(lines)

    def _method(
        self, sampler: Sampler | str | None, strength: float | None, budget: BudgetLike | None,
        posed: Problem | None = None, layouts: int = 1,
    ) -> Sampler:  # fmt: skip
        """The method with the options that spend a budget on a problem, the session's own unless given, in equal shares
        where there are several layouts."""
        sampler, budget = checked_sampler("sampler", sampler), checked_budget("budget", budget)
        method = method_of(sampler) if strength is None else strengthened(method_of(sampler), strength)
        problem = self.context.problem
        if budget is None or layouts == 1:
            return fit_turns(method, budget, Cost(), posed or problem)
        try:
            share = budget_of(budget).times(1 / layouts).less(judging(problem) * problem.denoiser.passes)
            return fit_turns(method, share, Cost(), posed or problem)
        except ValueError as error:
            raise ValueError(f"each of {layouts} sizes of a region has its share of the budget: {error}") from None

    def _run(
        self, method: Sampler, budget: BudgetLike | None, problem: Problem, start: Tensor | None,
        watch: Sequence[int] | None, progress: bool,
    ) -> Result:  # fmt: skip
        """The run of a new child of this node; the problem has one or more copies of every row, copy-major. Copy i has
        streams of its own, however many there are; those of copy 0 are the row's. Copies are not watched unasked."""
        context, seed = self.context, node_seed(self.context.seed, self.history.next_path(self.at))
        identities, n = context.identities, len(problem) // len(context.identities)
        if n > 1:
            # numbers of rows count up from the lowest bit, and those of copies down from the highest
            identities = torch.cat([identities ^ int(f"{copy:032b}"[::-1], 2) for copy in range(n)])
        if watch is None:
            watch = first_rows(*problem.canvas.shape) if n == 1 else ()
        about = {**context.about, "budget": "" if budget is None else str(budget_of(budget)), "seed": context.seed}
        try:
            result = sample(
                method, problem, seed=seed, rows=identities, start=start, watch=checked_watch("watch", watch),
                decode=context.model.decode, show=context.model, progress=flag("progress", progress),
            )  # fmt: skip
        except (RewardError, Interrupted) as error:
            # what is handed out in the session's place is the best copy of a row, and has cost what the session has
            partial, spent = replace(error.partial, about=replace(error.partial.about, **about)), self.cost
            rewards = partial.rewards.view(n, -1)
            tokens = partial.tokens.view(n, *self.tokens.shape)[rewards.argmax(0), torch.arange(len(self.texts))]
            partial = _showing(partial, tokens, rewards.amax(0), context.model)
            error.partial = replace(partial, cost=partial.cost * n + spent, asked=partial.asked * n + spent)
            raise
        result = replace(result, about=replace(result.about, **about))
        if n > 1 or start is None or not method.maximises:
            return result
        better = result.rewards > self.rewards
        tokens = torch.where(better[:, None], result.tokens, self.tokens)
        return _showing(result, tokens, torch.where(better, result.rewards, self.rewards), context.model)

    def _at(self, node: Node) -> Self:
        return replace(self, at=node.id)

    def _add(
        self, operation: str, options: dict[str, Any], result: Result, frames: Sequence[Frame | None] = (),
        run: Result | None = None,
    ) -> Node:  # fmt: skip
        """Records a child of this node; a row for which no allowed text was found keeps its own. Text that did not
        change stays as it was written: that around the regions of `frames`, and that of a row whose tokens stayed."""
        lost = torch.isneginf(result.rewards)
        tokens = torch.where(lost[:, None], self.tokens, result.tokens)
        texts, rewards = self.context.model.decode(tokens), torch.where(lost, self.rewards, result.rewards)
        for row, same in enumerate((tokens == self.tokens).all(1).tolist()):
            frame = frames[row] if row < len(frames) else None
            whole = texts[row] if frame is None else frame.compose(texts[row])
            texts[row] = self.texts[row] if same else whole if whole != texts[row] else texts[row]
        written = zip(result.texts or texts, texts, lost.tolist(), strict=True)
        run = run or replace(result, texts=[own if none else text for own, text, none in written])
        run = replace(run, about=replace(run.about, more={"operation": operation, **options} | {"sampler": None}))
        drift, kept = self.context.drift(tokens, self.context.problem.rows), tuple(lost.nonzero()[:, 0].tolist())
        told: dict[str, Any] = {"cost": result.asked, "kept": kept, "result": run}
        return self.history.add(Node(0, self.at, operation, options, tokens, texts, rewards, drift, **told))

    def _picked(self, sources: Sequence[int], options: dict[str, Any]) -> Self:
        """Records a child of this node whose rows come from other nodes."""
        node = Node(0, self.at, "pick", options, *self.history.rows(sources), sources=tuple(sources))
        return self._at(self.history.add(node))

    def _chosen(self, result: Result, posed: Problem) -> Result:
        """The result with the text of highest J of every row, of those that its layouts came to, and all their cost."""
        n, problem = len(posed) // len(self.texts), self.context.problem
        tokens, rewards = result.tokens.view(n, *self.tokens.shape), result.rewards.view(n, -1)
        behind = (posed.may_change.cumsum(1) > 0).view(tokens.shape)
        written = problem.may_change | (posed.canvas.view(tokens.shape) != self.context.blank)
        best = likeliest(problem, tokens, rewards, behind & written), torch.arange(len(self.texts))
        whole = _showing(result, tokens[best], rewards[best], self.context.model)
        judged = judging(problem) * problem.denoiser.passes
        return replace(whole, cost=(result.cost + judged).wide(n), asked=(result.asked + judged).wide(n))


def _showing(result: Result, tokens: Tensor, rewards: Tensor, model: TextModel) -> Result:
    return replace(result, tokens=tokens, rewards=rewards, best=Best(tokens, rewards), texts=model.decode(tokens))
