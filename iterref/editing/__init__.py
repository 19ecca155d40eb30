"""Editing: existing texts in, better ones out; refine them, infill parts of them, vary them, and go back.

    refine("tiny-news", texts, prompts=documents, reward=f, strength=0.3, budget=64).texts
    infill("tiny-news", ["police [arrest two men] in london"], prompts=documents, reward=f).texts
    chain = edit("tiny-news", texts, prompts=documents, reward=f, drift=0.5)
    chain = chain.refine(strength=0.3).vary(4).back(0).infill([...])

All three give an `Editing`, which can be gone on with (`iterref.editing.session` says what each step samples).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from iterref.arguments import checked_model, checked_options, checked_prompts, checked_reward, checked_rows
from iterref.budget import Budget, BudgetLike, Cost, budget_of, fitted
from iterref.columns import read_columns
from iterref.drafts import OwnDrafts, pool_cost
from iterref.editing.drift import Distance, Drift, Within, expect_bound, text_lengths
from iterref.editing.history import History, Node
from iterref.editing.marks import BRACKETS, Marks, read
from iterref.editing.resume import digest, fingerprint, name_of, resumed
from iterref.editing.session import Choice, Context, Editing
from iterref.editing.sizes import Length, checked_length
from iterref.editing.strength import strengthened
from iterref.generation import method_of, model_name, pose, text_model
from iterref.lengths import blank_canvas, in_front
from iterref.models.base import MASKS, TextModel
from iterref.numbers import whole_number
from iterref.problem import Problem
from iterref.rewards.memory import Remembered
from iterref.rewards.mixtures import reward_name
from iterref.run import Run
from iterref.samplers.base import Sampler

if TYPE_CHECKING:
    from typing import TypedDict, Unpack

    class Settings(TypedDict, total=False):
        """The options of `edit`, as the one-step functions take them."""

        reward: Callable[..., Any] | str
        alpha: float | None
        drift: float | None
        distance: Distance
        room: int | None
        last_blocks: int | None
        seed: int
        rows: Sequence[int] | Tensor | None
        temperature: float
        forbidden: Sequence[int]
        constraint: Any
        max_rows: int | None
        columns: Mapping[str, Sequence[Any]] | None
        progress: bool


__all__ = ["Choice", "Drift", "Editing", "History", "Node", "Within", "edit", "infill", "refine"]

# How many tokens longer than the first texts an edited one may become, unless said otherwise.
ROOM = 4


def edit(
    model: TextModel | str | Path | None,
    texts: Sequence[str] | Tensor | History,
    *,
    prompts: Sequence[str] | None = None,
    reward: Callable[..., Any] | str = "consensus",
    alpha: float | None = None,
    drift: float | None = None,
    distance: Distance = "share",
    room: int | None = ROOM,
    last_blocks: int | None = None,
    seed: int = 0,
    rows: Sequence[int] | Tensor | None = None,
    temperature: float = 1.0,
    forbidden: Sequence[int] = (),
    constraint: Any = None,
    max_rows: int | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    progress: bool = False,
) -> Editing:
    """A session over B texts, one a prompt: an `Editing` at its first node, whose steps are method calls.

    `prompts` may be left out for models that write without one. `texts` are strings, finished canvases (B, L) such as a
    `Result`'s tokens, or the `History` of an earlier session to go on with at its newest node (see
    `iterref.editing.resume`). `drift` in [0, 1] makes texts further than that from the first ones impossible, in the
    `distance` "share" (changed tokens among the free positions) or "edit" (normalised edit distance of tokens); it is
    measured at every node either way. Free are the text's own tokens and `room` positions after it, which a text may
    grow into; None frees the whole canvas. `last_blocks`, for models that write in blocks, frees the text's last so
    many of them alone: what stands before them never looks at them, so that a move there is weighed by all that it
    changes. All other arguments are those of `generate`; the consensus reward draws its pool here, once, and the first
    node is charged for it and for the reward of the first texts.

    Raises `ValueError` (`TypeError` for a wrong type) that names the row and says what to do, and `RewardError` where
    the reward fails on the first texts."""
    if isinstance(texts, History) and not len(texts):
        raise ValueError("the history is empty: give texts to start from")
    if isinstance(texts, Tensor) and (texts.dim() != 2 or texts.is_floating_point() or texts.dtype == torch.bool):
        raise TypeError(f"the texts are a tensor {tuple(texts.shape)} of {texts.dtype}: give token ids (B, L)")
    texts = texts if isinstance(texts, Tensor | History) else checked_prompts(texts, "text")
    model = checked_model(model)
    batch = len(texts[0].texts if isinstance(texts, History) else texts)
    prompts = [""] * batch if prompts is None else checked_prompts(prompts)
    if len(prompts) != batch:
        raise ValueError(f"there are {batch} texts for {len(prompts)} prompts: give one a prompt")
    columns = read_columns(columns, batch)
    asked = checked_reward(reward, batch, columns)
    identities = checked_rows(seed, rows, (), batch)
    options = checked_options(
        seed=seed, alpha=alpha, temperature=temperature, forbidden=forbidden, constraint=constraint, max_rows=max_rows,
        progress=progress,
    )  # fmt: skip
    drift, room = checked_options(drift=drift, room=room).values()
    if room is not None and room < 0:
        raise ValueError(f"room is how many tokens a text may grow by, at least 0, got {room}")
    expect_bound(distance, 0.0 if drift is None else drift)
    posed = pose(model, prompts, asked, columns, identities, **options)
    problem, blank = posed.problem, blank_canvas(posed.model)
    device = problem.canvas.device
    first = texts.nodes[0].tokens if isinstance(texts, History) else texts
    tokens = problem.finished(first.to(device) if isinstance(first, Tensor) else posed.model.encode(first))
    free = problem.may_change
    if room is not None:
        ends = text_lengths(tokens, blank) + room
        free = free & (torch.arange(tokens.shape[1], device=device) < ends[:, None])
    if last_blocks is not None:
        free = free & _behind(problem, text_lengths(tokens, blank), last_blocks)
    if getattr(posed.model, "fixed_length", False):  # the model knows no end that a text could grow or shrink to
        free = in_front(posed.model, tokens, free)
    measure = Drift(tokens, free, distance, blank)
    bounded = problem.reward if drift is None else Within(problem.reward, measure, drift)
    problem = replace(problem, canvas=tokens, free=free, reward=Remembered(bounded))
    told = {"model": model_name(posed.model), "reward": reward_name(reward), "prompts": prompts}
    context = Context(posed.model, problem, identities, options["seed"], measure, blank, told)
    written = posed.model.decode(tokens)
    about = {
        "model": fingerprint(posed.model), "prompts": digest(prompts), "tokenizer": digest(written),
        "reward": name_of(asked), "drift": drift, "distance": distance,
    }  # fmt: skip
    if isinstance(texts, History):
        return resumed(context, texts, about, posed.asked)
    cost = Cost(0, 1) + posed.asked
    options = {} if drift is None else {"within": drift}
    rewards = Run(problem).reward_of(tokens, final=False)
    if not isinstance(first, Tensor):
        written = list(first)  # as they were given; the model may write them in another form
    node = Node(0, None, "start", options, tokens, written, rewards, measure(tokens, problem.rows), cost=cost)
    history = History(about=about)
    history.add(node)
    return Editing(context, history)


def _behind(problem: Problem, lengths: Tensor, count: int) -> Tensor:
    """The positions (B, L) of the last `count` blocks of texts so long (B,), and all behind them. Raises `ValueError`
    for a model that writes in no blocks, and a count that is not positive."""
    own, count = problem.denoiser.block_length, whole_number("last_blocks", count, "pass how many blocks may change")
    if not own:
        raise ValueError("last_blocks= is for models that write in blocks, and this one has none: leave it out")
    if count < 1:
        raise ValueError(f"last_blocks counts the blocks that may change, got {count}: pass at least 1")
    number = Run(problem).blocks(own)
    last = number.gather(1, (lengths - 1).clamp_min(0)[:, None])
    return number > last - count


def refine(
    model: TextModel | str | Path | None, texts: Sequence[str] | Tensor, *, prompts: Sequence[str] | None = None,
    strength: float = 0.3, sampler: Sampler | str | None = None, budget: BudgetLike | None = None,
    watch: Sequence[int] | None = None, **settings: Unpack[Settings],
) -> Editing:  # fmt: skip
    """B texts refined at a strength in (0, 1]: a session of the one step `Editing.refine`. `settings` are the options
    of `edit`; what it gave goes on under another `seed`, or in the session, which sees to that (`iterref.sample`). As
    in `generate`, `budget` is for everything, a pool of drafts included, and `watch` names rows whose states the trace
    keeps."""
    given = checked_options(strength=strength, sampler=sampler, budget=budget)
    model, method = checked_model(model), method_of(given["sampler"])
    chain, step = _begun(model, texts, prompts, strengthened(method, given["strength"]), given["budget"], settings)
    return chain.refine(strength=strength, sampler=method, watch=watch, **step)


def infill(
    model: TextModel | str | Path | None, texts: Sequence[str], *, prompts: Sequence[str] | None = None,
    strength: float | None = None, length: Length | None = None, regions: Any = None, marks: Marks = BRACKETS,
    tokens: Tensor | None = None, sampler: Sampler | str | None = None, budget: BudgetLike | None = None,
    watch: Sequence[int] | None = None, **settings: Unpack[Settings],
) -> Editing:  # fmt: skip
    """B texts with the regions in `marks` written anew, all other tokens kept: a session of one `Editing.infill`.
    `regions` is what the regions must be, and `tokens` (B, L) are the texts without marks as canvases, where they are
    known (`Editing.infill`). `settings` are the options of `edit`, where the whole canvas is free unless `room` says
    otherwise; `budget` is for everything, a pool of drafts included, and `watch` names rows whose states the trace
    keeps."""
    texts = checked_prompts(texts, "text")
    checked_length("length", length)  # before the reward of the first texts is asked
    given = checked_options(strength=strength, sampler=sampler, budget=budget)
    model, method = text_model(checked_model(model)), method_of(given["sampler"])
    masks = getattr(model, "masks", MASKS)
    plain = [read(text, row, marks, masks).text for row, text in enumerate(texts)]
    moves = method if strength is None else strengthened(method, strength)
    first = plain if tokens is None else tokens
    chain, step = _begun(model, first, prompts, moves, given["budget"], {"room": None, **settings})
    return chain.infill(
        texts, strength=strength, length=length, regions=regions, marks=marks, sampler=method, watch=watch, **step
    )


def _begun(
    model: Any, texts: Sequence[str] | Tensor, prompts: Sequence[str] | None, method: Sampler,
    budget: BudgetLike | None, settings: Settings,
) -> tuple[Editing, dict[str, Any]]:  # fmt: skip
    """A session for one step by a method, and what is left for that. Raises `ValueError` where the pool of drafts
    leaves no room for the method, before it is drawn."""
    reward, limit = settings.get("reward", "consensus"), None if budget is None else budget_of(budget)
    if isinstance(reward, str) and "consensus" in reward:  # `edit` reads it; no other name has a pool
        reward = OwnDrafts()
    fitted(method, limit and limit.less(Cost(0, 1)), pool_cost(reward))  # the reward of the first texts is asked, too
    chain = edit(model, texts, prompts=prompts, **settings)
    return chain, {"budget": limit and limit.less(chain.cost), "progress": settings.get("progress", False)}
