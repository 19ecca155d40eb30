"""Estimation: what a run will take, stated before it starts: NFE, reward calls, seconds, and bytes of memory.

    calls    the method runs on a few prompts with a denoiser that knows nothing and counts sequences and open positions
    a call   measured with three quarters of the positions open and with one: a + b open, in bytes and in seconds
    a run    bytes = weights + prompts + candidates + remembered distributions + largest call;  seconds = sum of calls

The reward is called once, for its time; its own memory is not counted. Where networks are larger than the draws from
them, bytes are right within 25 %; for tiny ones, where steps reveal few positions, and where sequences that are alike
are evaluated once, they are up to 2x off, as seconds are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from inspect import signature
from time import perf_counter
from typing import Any
from weakref import finalize

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from iterref.arguments import checked_model, checked_prompts, checked_reward, checked_weights
from iterref.budget import Budget, Cost, fit_budget
from iterref.columns import read_columns
from iterref.denoiser import Denoiser
from iterref.drafts import Drafts, OwnDrafts, pools_in
from iterref.evaluation import KEEP
from iterref.fence import fenced
from iterref.generation import begun, method_of, text_model, token_reward, unrewarded
from iterref.noise import absorbing, uniform
from iterref.numbers import whole_number
from iterref.problem import Problem
from iterref.random import BLOCK, GROUP, WIDE, Rng
from iterref.rewards.consensus import Consensus
from iterref.rewards.memory import ENTRIES, ENTRY
from iterref.rewards.mixtures import replaced
from iterref.rewards.partial import PartialOfTokens
from iterref.run import Run, most_rows
from iterref.samplers.base import Sampler
from iterref.samplers.best_of_n import BestOfN
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from iterref.turns import fit_turns, turns

TOKEN, NUMBER = 8, 4  # bytes of a token and of a log-probability
CANDIDATE = 4  # tokens that a candidate holds at once: as drawn, its confidence, as scored, as chosen
WINDOWS = 16  # bytes of a weight that a draw looks at: itself, and its sum in float64 with what it is compared to
MEASURED = 1024  # positions of a measured call, about
PROMPTS, TOKENS, DEEPEST = 4, 64, 256  # of the run that counts calls; of a deeper one the rest is like them


@dataclass(frozen=True)
class Estimate:
    """What a run of `sampler` on `rows` prompts takes, where one call of the denoiser holds `max_rows` sequences.
    `cost` is a sample's NFE and reward calls, `seconds` the time of the whole run, and `price` how many NFE take as
    long as a reward call: `Budget(total=..., price=...)` is a budget of time. `weights` are the bytes of the model,
    `bytes_at(rows, max_rows)` those of the tensors that a run has alive at once besides."""

    sampler: Sampler
    rows: int
    max_rows: int
    cost: Cost
    seconds: float
    price: float
    weights: int
    bytes_at: Callable[[int, int], float] = field(repr=False, compare=False)

    @property
    def bytes(self) -> int:
        """The most that is alive at once, besides the weights."""
        return round(self.bytes_at(self.rows, self.max_rows))

    @property
    def remembered(self) -> int:
        """The most that remembered rewards take: an entry a call, where no two texts are equal, up to the limit."""
        return round(ENTRY * min(ENTRIES, self.rows * self.cost.reward_calls))

    def __str__(self) -> str:
        return (
            f"{self.sampler} on {self.rows} prompts: {self.cost.nfe:.4g} NFE and {self.cost.reward_calls:.4g} reward "
            f"calls a sample, about {self.seconds:.2g} s, a reward call as long as {self.price:.2g} NFE; "
            f"{self.bytes / 1e6:.3g} MB at the most, beside {self.weights / 1e6:.3g} MB of weights and "
            f"{self.remembered / 1e6:.3g} MB of remembered rewards, in calls of {self.max_rows} sequences"
        )


@fenced(torch.device("cpu"))
def estimate(what: Any, given: Any, *, batch: int | None = None, **options: Any) -> Estimate:
    """What a run will take: `estimate(sampler, problem)` of `sample`, `estimate(model, prompts)` of `generate`. The
    options are those of `sample` (`budget`, `start`) and `generate` (`reward`, `reward_weights`, `sampler`, `alpha`,
    `budget`, `temperature`, `forbidden`, `start`, `max_rows`, `columns`, `max_new_tokens`) that matter here. `batch` is
    the number of prompts, as many as are given unless said: a few can stand for many like them. Nothing that is given
    is changed. Raises as `sample` and `generate` do, before anything runs, and `ValueError` for a batch that is not
    positive."""
    batch = None if batch is None else whole_number("batch", batch, "pass how many prompts there are")
    of = _of_problem if isinstance(given, Problem) else _of_texts
    known = [*signature(of).parameters][3:]
    if wrong := [name for name in options if name not in known]:
        told = f"estimate got an unexpected keyword argument {wrong[0]!r}: leave it out"
        raise TypeError(f"{told}, the options that matter here are {', '.join(known)}")
    return of(what, given, batch, **options)


def _of_problem(what: Any, problem: Problem, batch: int | None, *, budget: Any = None, start: Any = None) -> Estimate:
    method = sampler_from_string(what)
    if start is not None:
        problem.finished(start)
        method = method.refining()
    method = fit_turns(method, budget, Cost(), problem)
    problem = replace(problem, constraint=None)  # it costs no call, and random texts are not of its language
    return _stated([method], problem, problem.reward, start is not None, batch, problem.denoiser)


def _of_texts(
    model: Any, prompts: Sequence[str], batch: int | None, *, reward: Any = "consensus", sampler: Any = None,
    alpha: float | None = None, budget: Any = None, temperature: float = 1.0, forbidden: Sequence[int] = (),
    start: str | None = None, max_rows: int | None = None, columns: Any = None, reward_weights: Any = None,
    max_new_tokens: int | None = None,
) -> Estimate:  # fmt: skip
    prompts = checked_prompts(prompts)
    columns = read_columns(columns, len(prompts))
    reward = checked_reward(reward, len(prompts), columns, checked_weights("reward_weights", reward_weights))
    model, method = checked_model(model), method_of(sampler)
    begun(method, reward, start)  # refuses before the model is asked
    model, encoding = text_model(model, max_new_tokens), Footprint()
    with encoding:
        problem = unrewarded(model, prompts, temperature, alpha=alpha, forbidden=forbidden, max_rows=max_rows)
    method, drafting = begun(method, reward, start, problem)
    method, length = fit_turns(method, budget, drafting, problem), problem.canvas.shape[1]

    def drawn(part: Any) -> Any:
        """A pool as large as the run's own, of texts as long as the canvas."""
        pool = [[f"{'word ' * (length - 1)}{k}" for k in range(part.n)]] if isinstance(part, OwnDrafts | Drafts) else []
        return Consensus(pool * len(prompts), part.kind) if pool else part

    of_tokens = token_reward(replaced(reward, drawn), model, prompts, columns, torch.arange(len(prompts)))
    pools = [pool for pool in pools_in(reward) if isinstance(pool, OwnDrafts)]
    methods = [BestOfN(n=p.n, steps=p.steps, order=p.order, block_length=p.block_length, bound=p.bound) for p in pools]
    found = _stated([*methods, method], problem, of_tokens, start is not None, batch, model)
    held = encoding.live / len(prompts) + TOKEN * length * sum(pool.n for pool in pools_in(reward))

    def bytes_at(rows: int, size: int) -> float:
        return rows * held + max(found.bytes_at(rows, size), rows * (encoding.peak - encoding.live) / len(prompts))

    return replace(found, bytes_at=bytes_at, cost=drafting + found.cost)


def _stated(
    methods: Sequence[Sampler], problem: Problem, reward: Callable[..., Tensor], started: bool, batch: int | None,
    model: Any,
) -> Estimate:  # fmt: skip
    """What methods take that run one after another, of which the last one is the estimated one."""
    if batch is not None and batch < 1:
        raise ValueError(f"a batch has at least one row, got batch={batch}")
    methods = [one.suited(problem.noise) for one in methods]
    method, (given, length), vocab = methods[-1], problem.canvas.shape, problem.noise.vocab
    cuda = problem.canvas.is_cuda
    few = problem.max_rows or most_rows(length, length * vocab, cuda)
    index = spread(problem, min(given, few, -(-MEASURED // length)))
    clean, ((size, time), (more, longer)) = _measured(replace(problem, free=turns(problem)[0]), index)
    judged = method.cost().reward_calls * len(turns(problem))
    scoring, network = _timed(lambda: reward(clean, index), cuda) / len(index), 0.0
    runs = [(counted := Counting(problem), counted.run(one, started and one is method)) for one in methods]
    for counted, times in runs:
        network += times * sum(time * sequences + longer * cells for sequences, cells, *_ in counted.calls)
    calls = {call for counted, _ in runs for call in counted.calls}
    scored = max(counted.scored for counted, _ in runs)
    answer = NUMBER * vocab

    def held(sequences: float, cells: float) -> int:
        """The sequences of one call, by their open positions."""
        return problem.max_rows or most_rows(length, max(1.0, cells / sequences) * vocab, cuda)

    limit = max((held(sequences, cells) for sequences, cells, *_ in calls), default=few)

    def bytes_at(rows: int, at_once: int) -> float:
        most = 0.0
        for sequences, cells, before, after in calls:
            together = held(sequences, cells) if at_once == limit else at_once
            share = min(1.0, together / max(1.0, sequences * rows))  # of the call, which goes in portions
            known = answer * rows * (before + (after if share < 1 else 0.0))
            numbers = GROUP * share * rows * cells * max(1.0, scored) if vocab >= WIDE else 0.0
            drawn = WINDOWS * min(BLOCK[cuda], numbers)
            call = share * rows * (size * sequences + more * cells)
            most = max(most, call + drawn + min(NUMBER * KEEP[cuda], known))
        return most + rows * TOKEN * CANDIDATE * length * scored

    weights = {weight.untyped_storage().data_ptr(): weight.nbytes for weight in network_weights(model)}
    cost, batch = method.cost() * len(turns(problem)), batch or given
    cost = replace(cost, nfe=cost.nfe * problem.denoiser.passes)
    seconds, nfe = judged * scoring + network, sum(one.cost().nfe * len(turns(problem)) for one in methods)
    price = scoring * nfe * problem.denoiser.passes / network if network else 0.0
    return Estimate(method, batch, limit, cost, seconds * batch, price, sum(weights.values()), bytes_at)


def _measured(problem: Problem, index: Tensor) -> tuple[Tensor, list[list[float]]]:
    """Random texts of some prompts; and the bytes and the seconds of a draw, for a sequence and for an open position:
    the line through a call with three quarters of the positions open and one with a quarter."""
    length, device, noise = problem.canvas.shape[1], problem.canvas.device, problem.noise
    rng, free = Rng.seeded(0, len(index), device), problem.may_change[index]
    random = (rng.uniform(length) * (noise.vocab - 1)).long()  # no two alike, or one would stand for both
    random += random >= (noise.vocab if noise.mask is None else noise.mask)
    run = Run(replace(problem.only(index), remember=False))
    clean, prior, cells, taken = torch.where(free, random, problem.canvas[index]), run.prior(rng), [], []
    quarter = torch.arange(length, device=device) % 4 == 0
    for where in (free & ~quarter, free & quarter):

        def call(where: Tensor = where) -> Tensor:
            return run.samples(torch.where(where, prior, clean), 0.5, where, 1, rng)

        with torch.inference_mode():  # the first call is slower, so another one is timed
            cells.append([len(index), int(where.sum())])
            taken.append([peak_memory(call, device), _timed(call, device.type == "cuda")])
    return clean, np.linalg.lstsq(np.array(cells, float), np.array(taken, float))[0].clip(0.0).tolist()


class Counting(Denoiser):
    """Knows nothing, and notes of every call its sequences, its open cells, and the cells whose answers are remembered
    from before it and after it, each a prompt (`calls`), and how many candidates a prompt were `scored` at once."""

    def __init__(self, problem: Problem) -> None:
        real, index, schedule = problem.denoiser, spread(problem, min(PROMPTS, len(problem))), problem.noise.schedule
        self.noise = uniform(TOKENS, schedule) if problem.noise.mask is None else absorbing(TOKENS, schedule=schedule)
        self.time_independent, self.uses_prompts = real.time_independent, real.uses_prompts
        self.has_leave_one_out, self.block_length = real.has_leave_one_out, real.block_length
        self.calls, self.scored = list[tuple[float, ...]](), 0.0
        canvas = problem.canvas[index] % (TOKENS - 1)  # no mask among them
        reward = PartialOfTokens(self._reward, lambda tokens, masked, rows: self._reward(tokens, rows))
        self.problem = Problem(self, reward, canvas, problem.may_change[index], problem.alpha)

    def run(self, method: Sampler, started: bool) -> float:
        """Runs the method, or a shallower one where it is deep; returns how much longer it is than what was run."""
        brief = method
        if method.cost().depth > DEEPEST:
            with suppress(ValueError):  # no option makes it shallower
                brief = fit_budget(method, Budget(depth=DEEPEST))
        sample(brief, self.problem, start=self.problem.canvas if started else None)
        return method.cost().nfe / max(1, brief.cost().nfe)

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self._answer(where, self.time_independent)

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self._answer(where, True)

    def _answer(self, where: Tensor, remembered: bool) -> Tensor:
        count, before = len(self.problem), self.calls[-1][-1] if self.calls else 0.0
        cells = int(where.sum())
        self.calls.append((len(where) / count, cells / count, before, cells / count if remembered else 0.0))
        log_p = torch.zeros(cells, TOKENS, device=where.device)
        if self.noise.mask is not None:
            log_p[:, self.noise.mask] = -torch.inf
        return log_p.log_softmax(1)

    def _reward(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L), (R,) -> (R,) float64, of which some moves are accepted and some are not."""
        self.scored = max(self.scored, len(tokens) / len(self.problem))
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        return (tokens * places).sum(1).double() % 5 * self.problem.alpha


def spread(problem: Problem, count: int) -> Tensor:
    """Some prompts, (count,) long, that stand for all: evenly from the fewest free positions to the most."""
    order = problem.may_change.sum(1).argsort(stable=True)
    return order[(torch.arange(count, device=order.device) + 0.5).mul(len(order) / count).long()]


def network_weights(thing: Any, depth: int = 2) -> Iterator[Tensor]:
    """The weights of the networks that an object holds, or that the objects within it do."""
    if isinstance(thing, nn.Module):
        for weight in thing.state_dict().values():
            yield from (part for part in parts_of(weight) if not part.is_meta)
    elif depth and hasattr(thing, "__dict__"):
        for _, part in sorted(vars(thing).items()):
            yield from network_weights(part, depth - 1)


def parts_of(weight: Tensor) -> list[Tensor]:
    """The tensors that a quantised one is made of, or the one itself."""
    if not is_traceable_wrapper_subclass(weight):
        return [weight]
    names, _ = weight.__tensor_flatten__()
    return [part for name in names for part in parts_of(getattr(weight, name))]


class Footprint(TorchDispatchMode):
    """Counts the bytes of tensors on a CPU while it is entered: those alive now, `live`, and at the `peak`. A storage
    counts from the operation that returns it until its last tensor is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak, self._alive = 0, 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        composite = torch._C.DispatchKey.CompositeImplicitAutograd
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), composite):
            with self:  # in inference mode these come whole: take them apart, so that their parts are seen
                return func.decompose(*args, **kwargs)
        given = [part for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) for part in parts_of(x)]
        known = {id(x.untyped_storage()) for x in given}
        out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                storage = tensor.untyped_storage()
                if id(storage) not in self._alive | known:  # no view, no result in place
                    self._add(id(storage), storage.nbytes())
                    finalize(storage, self._add, id(storage), -storage.nbytes()).atexit = False
        return out

    def _add(self, key: int, size: int) -> None:
        self._alive ^= {key}
        self.live += size
        self.peak = max(self.peak, self.live)


def peak_memory(work: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """The most bytes of tensors alive at once on a device during some work, besides what was alive before it."""
    if torch.device(device).type == "cuda":  # the allocator keeps the record
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with Footprint() as count:
        work()
    return count.peak


def _timed(work: Callable[[], Any], cuda: bool) -> float:
    start = perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize()
    return perf_counter() - start
