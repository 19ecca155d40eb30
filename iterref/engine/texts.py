"""Texts: what a worker does with a job, `iterref.generate` on its rows under their own identities.

    open: torch's threads, the model, the reward, the options checked on a row;      then batch -> records, once a job

With a device "cuda" workers of a machine take its GPUs in turns; with `gpus` each sees so many of its own and no other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from iterref.engine.jobs import Batch, Poison, Record, record, said
from iterref.lines import finite

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Texts:
    """The work of `generate`. `model` and `place` go to `iterref.load`; `reward` makes the reward in the worker;
    `options` go to `iterref.generate`; `sample` are a few rows by which these are checked before any job. `gpus` are
    those of a worker alone, 0 where something else hands them out."""

    model: str
    place: Mapping[str, Any]
    reward: Callable[[], Any]
    options: Mapping[str, Any]
    sample: Batch
    threads: int = 1
    gpus: int = 0

    def open(self, slot: int) -> Callable[[Batch], list[Record]]:
        """Loads model and reward. Raises `ValueError` or `FileNotFoundError` for what fits no row, and too few GPUs."""
        import torch

        from iterref.loading import load

        torch.set_num_threads(self.threads)
        place = dict(self.place)
        if self.gpus:  # before torch looks for any
            os.environ[VISIBLE] = own_gpus(slot, self.gpus, os.environ.get(VISIBLE), torch.cuda.device_count())
        if place.get("device") == "cuda" and torch.cuda.device_count() > 1:
            place["device"] = f"cuda:{slot % torch.cuda.device_count()}"
        model, reward = load(self.model, **place), self.reward()
        refuse(model, reward, self.options, self.sample)
        return partial(texts, model, reward, self.options)


def own_gpus(slot: int, each: int, visible: str | None, count: int) -> str:
    """The GPUs of a worker, of those that are visible to its machine. Raises `ValueError` where they are too few."""
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    mine = names[slot * each : (slot + 1) * each]
    if len(mine) < each:
        raise ValueError(f"worker {slot + 1} needs {each} GPUs and {len(names)} are here: fewer --workers, or --gpus")
    return ",".join(mine)


def texts(model: Any, reward: Any, options: Mapping[str, Any], batch: Batch) -> list[Record]:
    """The records of a batch. Raises `Poison` where a prompt is refused or the reward fails."""
    from iterref.generation import generate
    from iterref.rewards.base import RewardError

    rows, prompts = list(batch.rows), list(batch.prompts)
    try:
        result = generate(model, prompts, reward=reward, rows=rows, columns=batch.columns, watch=(), **options)
    except RewardError as error:
        raise Poison(said(error.__cause__ or error)) from error
    except (ValueError, TypeError) as error:
        raise Poison(said(error), again=False) from error
    values = (finite(result.rewards.tolist()), finite(result.best.reward.tolist()), result.tokens.tolist())
    found = zip(result.texts or [], *values, strict=True)
    asked = {name: float(value) for name, value in vars(result.asked).items()}
    return [
        record(row, prompt, text=text, reward=value, best=best, asked=asked, tokens=tokens)
        for row, prompt, (text, value, best, tokens) in zip(rows, prompts, found, strict=True)
    ]


def refuse(model: Any, reward: Any, options: Mapping[str, Any], sample: Batch) -> None:
    """Raises `ValueError` for options that fit no row: an unknown method, a budget too small, a column that lacks.
    Prompts of the sample that the model refuses are passed over."""
    import torch

    from iterref.arguments import checked_reward
    from iterref.budget import fitted
    from iterref.drafts import no_reward, pools_in
    from iterref.generation import begun, method_of, pose

    reward, given = checked_reward(reward, 1), dict(options)
    if (size := given.pop("max_new_tokens", None)) is not None:
        model = model.with_length(size)
    method, pool = begun(method_of(given.pop("sampler", None)), reward, given.pop("start", None))
    fitted(method, given.pop("budget", None), pool)
    left: dict[str, Any] = {"alpha": None, "temperature": 1.0, "forbidden": (), "max_rows": None, "seed": 0}
    left |= {"progress": False, **given}
    asked = no_reward if pools_in(reward) else reward  # a pool is not drawn for a check
    for place, prompt in enumerate(sample.prompts):
        try:
            model.prepare([prompt])
        except ValueError:
            continue
        columns = {name: column[place : place + 1] for name, column in sample.columns.items()}
        pose(model, [prompt], asked, columns, torch.tensor([sample.rows[place]]), **left)
        return
