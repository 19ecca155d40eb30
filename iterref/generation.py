"""Generate: prompts and a reward in, refined texts out; the one-line use of this library.

    texts ~ p(x | prompt)^(1 / temperature) exp(r(x) / alpha),      r a function of texts, or the model's own consensus

    generate("tiny-news", documents, reward="consensus", sampler="iterref:tries=16", budget=256).texts

A model is anything with `prepare`, `decode` and `noise` (`TextModel`). Everything that can be refused is refused before
the first network evaluation. The pool of drafts that consensus needs is drawn here too, and charged to the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from iterref import arguments
from iterref.budget import BudgetLike, Cost, budget_of, fitted
from iterref.columns import read_columns
from iterref.constraint.texts import of_texts
from iterref.drafts import Drafts, OfPrompts, OwnDrafts, Pooled, draw, no_reward, pool_cost, pools_in, tempered
from iterref.fence import fenced
from iterref.guidance import untempered
from iterref.lengths import at_least, blank_canvas, ends_of, expect_long, lengths_of
from iterref.models.base import TextModel
from iterref.numbers import whole_number
from iterref.problem import Problem
from iterref.random import Rng
from iterref.result import Interrupted, Result
from iterref.rewards.base import Reward, RewardError
from iterref.rewards.mixtures import replaced, reward_name
from iterref.rewards.text import TextReward, bind_reward, text_ids
from iterref.samplers.base import Sampler
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import Progress, first_rows, sample
from iterref.turns import fit_turns

# The method unless another is given, and alpha for methods that do not find one (docs/defaults.md).
DEFAULT, ALPHA = "auto", 0.1


def generate(
    model: TextModel | str | Path | None,
    prompts: Sequence[str],
    *,
    reward: Callable[..., Any] | str | Sequence[Callable[..., Any] | str] = "consensus",
    reward_weights: Sequence[float] | None = None,
    sampler: Sampler | str | None = None,
    alpha: float | None = None,
    budget: BudgetLike | None = None,
    seed: int = 0,
    rows: Sequence[int] | Tensor | None = None,
    temperature: float = 1.0,
    forbidden: Sequence[int] = (),
    constraint: Any = None,
    start: Literal["drafts"] | None = None,
    max_rows: int | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    num_return_sequences: int = 1,
    max_new_tokens: int | None = None,
    min_new_tokens: int = 0,
    watch: Sequence[int] | None = None,
    progress: bool = False,
    callback: Callable[[Progress], object] | None = None,
    log_likelihood: bool = False,
) -> Result:
    """Refined texts of B prompts: a `Result` whose `texts` and `rewards` hold one entry a prompt.

    `model` is a text model, or what `iterref.load` takes: a folder, a hub name, or a bundled model, as None for
    "tiny-news". `reward` is a function of texts in the convention of TRL's reward functions (`f(completions,
    prompts=..., **columns)`, one number a text; -inf forbids a text), a reward of `iterref.rewards`, its name with
    options ("classifier:FOLDER:positive", "mine.py:short", `iterref.rewards.strings`), a function `(tokens, rows)`, or
    the model's agreement with its own drafts ("consensus", an `OwnDrafts`, `Drafts` drawn before), alone or within a
    mixture; several of them in a list are added, with `reward_weights` if given. `sampler` is a method or its name with
    options ("iterref:tries=16,span=0.2"), `auto` unless given. A reward that is higher by `alpha` makes a text e times
    as likely; unless it is given, methods that maximise J find it in the run (`auto`, `beam`), and others take 0.1.

    `budget` is a number of NFE a sample, (NFE, reward calls), or a `Budget`, and refits the method's options; a pool of
    drafts is paid from it and counted in the result's `cost`, `asked` and `seconds` (its trace begins after the pool).
    A row's text depends on (seed, its identity in `rows`, its prompt and columns) alone; identities are 0 .. B - 1
    unless given. `num_return_sequences` texts a prompt stand side by side in the result, each with a random stream of
    its own; the first is the one that a single text would be. `max_new_tokens` are the most tokens of an answer, for
    models that write answers of any length, `min_new_tokens` the fewest: no end stands before (`iterref.lengths`); the
    result's `lengths` count them. `temperature` sharpens the model below 1. `forbidden` lists tokens that are never
    written. `constraint` is what every text must be: a regular expression, a JSON schema as a dictionary, a pattern of
    `iterref.constraint`, or a list with one a prompt (docs/structure.md). `start="drafts"` refines, with all the NFE
    that the pool leaves, the draft that agrees most with the others, in place of a draft of the method's own. `columns`
    holds further arguments of the reward, one entry a prompt each; `max_rows` bounds the sequences of one call, `watch`
    names rows whose states the trace keeps (as many of the first 8 as have 2,048 positions together, unless given), and
    `callback` is called with a `Progress` after every step. `log_likelihood` has the model's own log-likelihood of the
    texts reported in the result, outside the budget.

    Raises `ValueError` (`TypeError` for a wrong type) before anything runs, saying which row and what to do, and
    `RewardError` where the reward fails (on Ctrl-C `iterref.result.Interrupted`), with what the run had reached as the
    error's `partial`."""
    prompts, model = arguments.checked_prompts(prompts), arguments.checked_model(model)
    batch = len(prompts)
    columns = read_columns(columns, batch)
    weights = arguments.checked_weights("reward_weights", reward_weights)
    asked = arguments.checked_reward(reward, batch, columns, weights)
    if max_new_tokens is not None:
        model = text_model(model, max_new_tokens)
    identities = arguments.checked_rows(seed, rows, () if watch is None else watch, batch)
    options = arguments.checked_options(
        seed=seed, alpha=alpha, temperature=temperature, forbidden=forbidden, constraint=constraint, max_rows=max_rows,
        progress=progress,
    )  # fmt: skip
    given = arguments.checked_options(
        sampler=sampler, budget=budget, start=start, watch=watch or (), callback=callback
    )
    copies = whole_number("num_return_sequences", num_return_sequences, "pass how many texts a prompt is to have")
    if copies < 1:
        raise ValueError(f"num_return_sequences must be at least 1, got {copies}")
    method = method_of(given["sampler"])
    method, pool = begun(method, asked, start)
    unfitted, method = method, fitted(method, given["budget"], pool)
    fewest = whole_number("min_new_tokens", min_new_tokens, "pass how many tokens an answer has at the least")
    posed = pose(model, prompts, asked, columns, identities, min_new_tokens=fewest, **options)
    texts, judged = posed.pools[0].best() if start else (None, Cost())
    method = fit_turns(unfitted, given["budget"], judged + posed.asked, posed.problem)
    if watch is None:
        given["watch"] = first_rows(*posed.problem.canvas.shape)
    limit = "" if given["budget"] is None else str(budget_of(given["budget"]))
    more: dict[str, Any] = {"temperature": temperature} if temperature != 1 else {}
    more |= {name: str(value) for name, value in (("constraint", constraint), ("start", start)) if value is not None}
    about = {
        "model": model_name(posed.model), "reward": reward_name(reward, weights), "budget": limit,
        "prompts": [text for text in prompts for _ in range(copies)], "more": more,
    }  # fmt: skip
    try:
        result = sample(
            method, posed.problem.repeated(copies), seed=options["seed"], rows=identities, copies=copies,
            start=None if texts is None else texts.repeat_interleave(copies, 0), watch=given["watch"],
            decode=posed.model.decode, show=posed.model, progress=progress, callback=callback,
            log_likelihood=log_likelihood,
        )  # fmt: skip
    except (RewardError, Interrupted) as error:
        error.partial = _completed(_with_drafts(error.partial, posed, copies), posed, judged, copies, about)
        raise
    return _completed(result, posed, judged, copies, about)


@dataclass(frozen=True)
class Posed:
    """What a run begins with: the text model, the problem with its reward of tokens, and the pools of drafts."""

    model: TextModel
    problem: Problem
    pools: list[Drafts]

    @property
    def asked(self) -> Cost:
        return sum((pool.asked for pool in self.pools), Cost())


@fenced(torch.device("cpu"))
def pose(
    model: TextModel | str | Path | None, prompts: Sequence[str], reward: Callable[..., Any],
    columns: Mapping[str, Sequence[Any]], identities: Tensor, *, seed: int, temperature: float, progress: bool,
    min_new_tokens: int = 0, constraint: Any = None, **options: Any,
) -> Posed:  # fmt: skip
    """The problem of B checked prompts, with everything that `generate` takes; a pool is drawn where the reward or a
    part of it is an `OwnDrafts`, after everything that can be refused without it. `options` are those of `Problem`."""
    model = text_model(model)
    if pools_in(reward) and getattr(model, "draws_images", False):
        raise ValueError("the consensus compares texts, and this model draws images: give another reward=")
    arguments.expect_template(prompts, model)
    problem = unrewarded(model, prompts, temperature, constraint, min_new_tokens, **options)
    token_reward(reward, model, prompts, columns, identities)  # refuses before a pool is drawn
    pools: dict[Pooled, Drafts] = {}
    for pool in pools_in(reward):
        if isinstance(pool, OwnDrafts):
            warm = temperature if pool.temperature is None else pool.temperature
            source = replace(problem, denoiser=tempered(untempered(problem.denoiser), warm))
            rng = Rng.seeded(seed, identities, device=problem.canvas.device)
            pools[pool] = draw(pool, source, model, rng, progress)
        else:
            pools[pool] = pool
    drawn = replaced(reward, lambda part: OfPrompts(pools[part].reward()) if isinstance(part, Pooled) else part)
    of_tokens = token_reward(drawn, model, prompts, columns, identities)
    if getattr(model, "ranks", 1) > 1:
        from iterref.rewards.rank_zero import RankZero

        of_tokens = RankZero(of_tokens)
    return Posed(model, replace(problem, reward=of_tokens), list(pools.values()))


def draw_drafts(
    model: TextModel | str | Path | None, prompts: Sequence[str], drafts: OwnDrafts, *, seed: int = 0,
    rows: Sequence[int] | Tensor | None = None, progress: bool = False, **options: Any,
) -> Drafts:  # fmt: skip
    """The pools of B prompts, the very ones that `generate(reward=drafts)` would draw with the same options. For
    several runs that compete under one reward. Raises as `generate` does."""
    prompts = arguments.checked_prompts(prompts)
    identities = arguments.checked_rows(seed, rows, (), len(prompts))
    given = arguments.checked_options(**options)
    model = text_model(arguments.checked_model(model))
    if drafts.temperature is not None:
        given["temperature"] = drafts.temperature
    problem = unrewarded(model, prompts, **given)
    return draw(drafts, problem, model, Rng.seeded(int(seed), identities, device=problem.canvas.device), progress)


@fenced(torch.device("cpu"))
def unrewarded(
    model: TextModel, prompts: Sequence[str], temperature: float = 1.0, constraint: Any = None,
    min_new_tokens: int = 0, alpha: float | None = None, **options: Any,
) -> Problem:  # fmt: skip
    """The problem of B checked prompts whose reward is still to come, and which finds its alpha in the run unless one
    is given; `options` are those of `Problem`."""
    denoiser, canvas, free = model.prepare(prompts)
    held = at_least(denoiser, free, model, min_new_tokens)
    options["constraint"] = None if constraint is None else of_texts(constraint, model, canvas)
    given, warm = ALPHA if alpha is None else alpha, tempered(held, temperature)
    problem = Problem(warm, no_reward, canvas, free, given, finds_alpha=alpha is None, **options)
    expect_long(problem, held, min_new_tokens)
    return problem


def text_model(model: TextModel | str | Path | None, max_new_tokens: int | None = None) -> TextModel:
    """The model itself, the bundled one for None and "tiny-news", or whatever `iterref.load` reads by that name, with
    answers of so many tokens at the most, if said. Raises `ValueError` for a name that is none of these, and for a
    model whose answers have a length of their own."""
    size, hint = max_new_tokens, "pass how many tokens an answer has at the most"
    size = None if size is None else whole_number("max_new_tokens", size, hint)
    if model is None or isinstance(model, str | Path):
        from iterref.loading import load

        try:
            model = load(model)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error
    return model if size is None else model.with_length(size)


def model_name(model: Any) -> str:
    """What a model was loaded by, or else its class."""
    return str(getattr(model, "name", "") or type(model).__name__)


def method_of(sampler: Sampler | str | None) -> Sampler:
    """The method, `DEFAULT` where none is given."""
    return sampler_from_string(DEFAULT if sampler is None else sampler)


def begun(method: Sampler, reward: Any, start: str | None, problem: Problem | None = None) -> tuple[Sampler, Cost]:
    """The method, without a draft of its own where it starts from drafts, and what the pools and judging them take on a
    `problem` (`pool_cost`). Raises `ValueError` for a start that the reward has no pool for."""
    pool, pools = pool_cost(reward, problem), pools_in(reward)
    if start is None:
        return method, pool
    if start != "drafts" or len(pools) != 1:
        told = f"start={start!r} needs one pool of drafts, and the reward has {len(pools)}"
        raise ValueError(f"{told}: say start='drafts', with the consensus as the reward or a part of it")
    return method.refining(), pool + Cost(0, pools[0].n)


def _with_drafts(result: Result, posed: Posed, copies: int) -> Result:
    """A result that broke off, with a draft of the pool for every row whose canvas is still empty."""
    empty = (result.tokens == posed.problem.repeated(copies).canvas).all(1)
    if not posed.pools or not bool(empty.any()):
        return result
    drafts = posed.pools[0].tokens[0].repeat_interleave(copies, 0)
    tokens = drafts.where(empty[:, None], result.tokens)
    return replace(result, tokens=tokens, texts=posed.model.decode(tokens))


@fenced(torch.device("cpu"))
def _completed(result: Result, posed: Posed, judged: Cost, copies: int, about: dict[str, Any]) -> Result:
    """The result with the lengths of its answers, what the run is `about`, the cost of the pools added, and of judging
    drafts, which the copies of a prompt share."""
    for pool in posed.pools:
        parts = {name: seconds + pool.parts.get(name, 0.0) for name, seconds in result.parts.items()}
        cost, asked = result.cost + pool.cost.shared(copies), result.asked + pool.asked.shared(copies)
        result = replace(result, cost=cost, asked=asked, seconds=result.seconds + pool.seconds, parts=parts)
    judged, free = judged.shared(copies), posed.problem.repeated(copies).may_change
    images = getattr(posed.model, "draws_images", False)
    long = None if images else lengths_of(result.tokens, free, ends_of(posed.model))
    told = replace(result.about, **about)
    return replace(result, cost=result.cost + judged, asked=result.asked + judged, lengths=long, about=told)


def token_reward(
    reward: Any, model: TextModel, prompts: Sequence[str], columns: Mapping[str, Sequence[Any]], identities: Tensor
) -> Reward:
    """A reward of tokens from whatever `generate` takes; refuses a function that needs a column that is not there."""
    blank = cache(partial(blank_canvas, model))

    def ids(tokens: Tensor, texts: list[str]) -> list[list[int]]:
        return text_ids(tokens, texts, blank(), getattr(model, "ends", ()))

    as_text = partial(TextReward, decode=model.decode, prompts=prompts, columns=columns, identities=identities, ids=ids)
    return bind_reward(reward, as_text, identities)
