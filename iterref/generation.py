"""Generate: prompts and a reward in, refined texts out; the one-line use of this library.

    texts ~ p(x | prompt)^(1 / temperature) exp(r(x) / alpha),      r a function of texts, or the model's own consensus

    generate("tiny-news", documents, reward="consensus", sampler="iterref:tries=16", budget=256).texts

A model is anything with `prepare`, `decode` and `noise` (`TextModel`). Everything that can be refused is refused before
the first denoiser row. The pool of drafts that consensus needs is drawn here too, and charged to the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from iterref.arguments import (
    checked_columns,
    checked_model,
    checked_options,
    checked_prompts,
    checked_reward,
    checked_rows,
)
from iterref.budget import Cost, Rows, budget_of, fit
from iterref.drafts import (
    Drafts,
    OwnDrafts,
    Pooled,
    TextModel,
    draw,
    no_reward,
    pool_cost,
    pools_in,
    tempered,
)  # fmt: skip
from iterref.problem import Problem
from iterref.random import Rng
from iterref.registry import parse
from iterref.rewards.algebra import Composable, TextCombined, replaced
from iterref.rewards.base import Reward, RewardError
from iterref.rewards.calling import judges_tokens
from iterref.rewards.text import TextReward
from iterref.run import Interrupted, Result, sample
from iterref.samplers.base import Sampler

# What texts are refined by unless said otherwise: the method's defaults, by which free text stays whole, and the best
# text seen. A model on which others were measured to be better says so by `recommended` (docs/defaults.md).
RECOMMENDED = "iterref:objective=maximise"


def generate(
    model: TextModel | str | Path | None,
    prompts: Sequence[str],
    *,
    reward: Callable[..., Any] | str = "consensus",
    sampler: Sampler | str | None = None,
    alpha: float = 0.1,
    budget: Rows | None = None,
    seed: int = 0,
    rows: Sequence[int] | Tensor | None = None,
    temperature: float = 1.0,
    forbidden: Sequence[int] = (),
    start: Literal["drafts"] | None = None,
    max_rows: int | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    watch: Sequence[int] = (),
    progress: bool = False,
) -> Result:
    """Refined texts of B prompts: a `Result` whose `texts` and `rewards` hold one entry a prompt.

    `model` is a text model, a folder of `Summarizer.load`'s, or None or "tiny-news" for the bundled one. `reward` is a
    function of texts in the convention of TRL's reward functions (`f(completions, prompts=..., **columns)`, one number
    a text; -inf forbids a text), a reward of `iterref.rewards`, a function `(tokens, rows)`, or the model's agreement
    with its own drafts ("consensus", an `OwnDrafts`, `Drafts` drawn before), alone or within a mixture. `sampler` is a
    method or its name with options ("iterref:tries=16,span=0.2"), what `recommended` says unless given. A reward that
    is higher by `alpha` makes a text e times as likely.

    `budget` is a number of denoiser rows a sample, (denoiser rows, reward rows), or a `Budget`, and refits the method's
    options; a pool of drafts is paid from it and counted in the result's `cost`, `asked` and `seconds` (its trace
    begins after the pool). A row's text depends on (seed, its identity in `rows`, its prompt and columns) alone;
    identities are 0 .. B - 1 unless given. `temperature` sharpens the model below 1. `forbidden` lists tokens that
    are never written, `start="drafts"` refines, with every row that the pool leaves, the draft that agrees most
    with the others, in place of a draft of the method's own. `columns` holds further arguments of the reward, one
    entry a prompt each; `max_rows` bounds the rows of one call, `watch` names rows whose states the trace keeps.

    Raises `ValueError` (`TypeError` for a wrong type) before anything runs, saying which row and what to do, and
    `RewardError` where the reward fails (on Ctrl-C `iterref.run.Interrupted`), with what the run had reached as the
    error's `partial`.
    """
    prompts, model, batch = checked_prompts(prompts), checked_model(model), len(prompts)
    columns, asked = checked_columns(columns, batch), checked_reward(reward, batch)
    identities = checked_rows(seed, rows, watch, batch)
    options = checked_options(
        seed=seed, alpha=alpha, temperature=temperature, forbidden=forbidden, max_rows=max_rows, progress=progress
    )
    given = checked_options(sampler=sampler, budget=budget, start=start, watch=watch)
    model, method = method_of(model, given["sampler"])
    method, pool = begun(method, asked, start)
    unfitted, method = method, fitted(method, given["budget"], pool)
    posed = pose(model, prompts, asked, columns, identities, **options)
    texts, judged = posed.pools[0].best() if start else (None, Cost())
    if posed.problem.passes > 1:
        method = fitted(unfitted, given["budget"], judged + posed.asked, posed.problem.passes)
    try:
        result = sample(
            method,
            posed.problem,
            seed=options["seed"],
            rows=identities,
            start=texts,
            watch=given["watch"],
            decode=posed.model.decode,
            show=posed.model,
            progress=progress,
        )
    except (RewardError, Interrupted) as error:
        error.partial = _charged(_with_drafts(error.partial, posed), posed.pools, judged)
        raise
    return _charged(result, posed.pools, judged)


@dataclass(frozen=True)
class Posed:
    """What a run begins with: the text model, the problem with its reward of tokens, and the pools of drafts."""

    model: TextModel
    problem: Problem
    pools: list[Drafts]

    @property
    def asked(self) -> Cost:
        """Rows a sample that the pools took."""
        return sum((pool.asked for pool in self.pools), Cost())


def pose(
    model: TextModel | str | Path | None,
    prompts: Sequence[str],
    reward: Callable[..., Any],
    columns: Mapping[str, Sequence[Any]],
    identities: Tensor,
    *,
    seed: int,
    alpha: float,
    temperature: float,
    forbidden: Sequence[int],
    max_rows: int | None,
    progress: bool,
) -> Posed:
    """The problem of B checked prompts, with everything that `generate` takes; a pool is drawn where the reward or a
    part of it is an `OwnDrafts`, after everything that can be refused without it."""
    model = text_model(model)
    if pools_in(reward) and getattr(model, "draws_images", False):
        raise ValueError("the consensus compares texts, and this model draws images: give another reward=")
    denoiser, canvas, free = model.prepare(prompts)
    problem = Problem(
        tempered(denoiser, temperature), no_reward, canvas, free, alpha=alpha, forbidden=forbidden, max_rows=max_rows
    )
    _token_reward(reward, model, prompts, columns)  # refuses before a pool is drawn
    pools: dict[Pooled, Drafts] = {}
    for pool in pools_in(reward):
        if isinstance(pool, OwnDrafts):
            warm = temperature if pool.temperature is None else pool.temperature
            source = replace(problem, denoiser=tempered(denoiser, warm))
            rng = Rng.seeded(seed, identities, device=canvas.device)
            pools[pool] = draw(pool, source, model, rng, progress)
        else:
            pools[pool] = pool
    drawn = replaced(reward, lambda part: pools[part].reward() if isinstance(part, Pooled) else part)
    of_tokens = _token_reward(drawn, model, prompts, columns)
    if getattr(model, "ranks", 1) > 1:
        from iterref.rewards.led import Led

        of_tokens = Led(of_tokens)
    return Posed(model, replace(problem, reward=of_tokens), list(pools.values()))


def draw_drafts(
    model: TextModel | str | Path | None,
    prompts: Sequence[str],
    drafts: OwnDrafts,
    *,
    seed: int = 0,
    rows: Sequence[int] | Tensor | None = None,
    temperature: float = 1.0,
    forbidden: Sequence[int] = (),
    max_rows: int | None = None,
    progress: bool = False,
) -> Drafts:
    """The pools of B prompts, the very ones that `generate(reward=drafts)` would draw with the same options.

    For several runs that compete under one reward. Raises as `generate` does.
    """
    prompts = checked_prompts(prompts)
    identities = checked_rows(seed, rows, (), len(prompts))
    given = checked_options(temperature=temperature, forbidden=forbidden, max_rows=max_rows)
    model = text_model(checked_model(model))
    denoiser, canvas, free = model.prepare(prompts)
    own = given.pop("temperature")
    warm = own if drafts.temperature is None else drafts.temperature
    problem = Problem(tempered(denoiser, warm), no_reward, canvas, free, **given)
    return draw(drafts, problem, model, Rng.seeded(int(seed), identities, device=canvas.device), progress)


def fitted(method: Sampler, budget: Rows | None, pool: Cost, passes: int = 1) -> Sampler:
    """The method with the options that spend what a pool of drafts leaves of the budget, rows a sample.

    A row of the method takes `passes` denoiser rows (the pool's are counted as what they took).

    Raises `ValueError` where the pool leaves no room for one run.
    """
    if budget is None:
        return method
    limit = budget_of(budget)
    if not pool.denoiser:
        return fit(method, limit.per(passes))
    try:
        left = limit.less(pool)
    except ValueError:
        raise ValueError(
            f"the budget of {limit} leaves no room after the {pool.denoiser:g} denoiser rows of the drafts: raise the "
            "budget, or draw fewer drafts in fewer steps"
        ) from None
    try:
        return fit(method, left.per(passes))
    except ValueError as error:
        raise ValueError(f"after the {pool.denoiser:g} denoiser rows of the drafts, {error}") from None


def text_model(model: TextModel | str | Path | None) -> TextModel:
    """The model itself, the bundled one for None and "tiny-news", or whatever `iterref.load` reads by that name.

    Raises `ValueError` for a name that is none of these.
    """
    if model is None or isinstance(model, str | Path):
        from iterref.loading import load

        try:
            return load(model)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error
    return model


def method_of(
    model: TextModel | str | Path | None, sampler: Sampler | str | None
) -> tuple[TextModel | str | Path | None, Sampler]:
    """The method, and the model, which is loaded only where it has to say what suits it."""
    if sampler is None:
        model = text_model(model)
        sampler = recommended(model)
    return model, parse(sampler)


def begun(method: Sampler, reward: Any, start: str | None) -> tuple[Sampler, Cost]:
    """The method, without a draft of its own where it starts from drafts, and what the pools and judging them take.

    Raises `ValueError` for a start that the reward has no pool for.
    """
    pool, pools = pool_cost(reward), pools_in(reward)
    if start is None:
        return method, pool
    if start != "drafts" or len(pools) != 1:
        raise ValueError(
            f"start={start!r} needs one pool of drafts, and the reward has {len(pools)}: say start='drafts', with the "
            "consensus as the reward or a part of it"
        )
    return method.refining(), pool + Cost(0, pools[0].n)


def recommended(model: TextModel) -> str:
    """The method, with its options, by which a model's texts are refined unless another is given: what the model itself
    says in `recommended`, or `RECOMMENDED`."""
    return getattr(model, "recommended", None) or RECOMMENDED


def _with_drafts(result: Result, posed: Posed) -> Result:
    """A result that broke off, with a draft of the pool for every row whose canvas is still empty."""
    empty = (result.tokens == posed.problem.canvas).all(1)
    if not posed.pools or not bool(empty.any()):
        return result
    tokens = posed.pools[0].tokens[0].where(empty[:, None], result.tokens)
    return replace(result, tokens=tokens, texts=posed.model.decode(tokens))


def _charged(result: Result, pools: Sequence[Drafts], judged: Cost) -> Result:
    """The result with the cost of the pools added, and of judging drafts."""
    for pool in pools:
        parts = {name: seconds + pool.parts.get(name, 0.0) for name, seconds in result.parts.items()}
        cost, asked = result.cost + pool.cost, result.asked + pool.asked
        result = replace(result, cost=cost, asked=asked, seconds=result.seconds + pool.seconds, parts=parts)
    return replace(result, cost=result.cost + judged, asked=result.asked + judged)


def _token_reward(
    reward: Any, model: TextModel, prompts: Sequence[str], columns: Mapping[str, Sequence[Any]]
) -> Reward:
    """A reward of tokens from whatever `generate` takes; refuses a function that needs a column that is not there."""
    if isinstance(reward, Composable) or judges_tokens(reward):
        return reward
    if isinstance(reward, TextCombined) and reward.mixed:
        return reward.bound(lambda part: _token_reward(part, model, prompts, columns))
    return TextReward(reward, model.decode, prompts, columns)
