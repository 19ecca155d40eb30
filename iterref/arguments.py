"""Arguments: input validation of the public functions, before anything runs.

    what the user passed  ->  the value that the library works with, or one sentence that names argument and remedy

Raises `TypeError` for a value of a wrong type and `ValueError` for one out of range; ranges that belong to a method or
a problem are checked there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iterref.budget import Budget, BudgetLike
from iterref.columns import brief, missing, read_column, shown
from iterref.constraint.expressions import compiled
from iterref.constraint.patterns import Pattern, pattern_of
from iterref.denoiser import Denoiser
from iterref.drafts import Drafts, pools_in
from iterref.models.base import Chat, Text
from iterref.numbers import entries, flag, number, whole_number, whole_numbers
from iterref.random import Rng
from iterref.rewards.algebra import weighted
from iterref.rewards.strings import reward_from_string
from iterref.samplers.base import Sampler


def checked_options(**given: Any) -> dict[str, Any]:
    """Options by name, each as `CHECKS` returns it; those of other names stay as they are."""
    return {name: CHECKS[name](name, value) if name in CHECKS else value for name, value in given.items()}


def checked_prompts(prompts: Iterable[str], what: str = "prompt") -> list[str]:
    """The prompts (or texts, by `what`) as a list. Raises `TypeError` or `ValueError`, naming the row."""
    if isinstance(prompts, str | bytes):
        kind = "string" if isinstance(prompts, str) else "bytes object"
        raise TypeError(f"the {what}s are one {kind}: pass a list of strings, one a prompt")
    if isinstance(prompts, Path):
        raise TypeError(f"the {what}s are the path {str(prompts)!r}: pass the file's lines, a list of strings")
    entries = read_column(prompts, f"{what}s=")
    if not entries:
        raise ValueError(f"there are no {what}s: pass at least one")
    return [_text(entry, f"{what} {row}") for row, entry in enumerate(entries)]


def expect_template(prompts: Sequence[str], model: Any) -> None:
    """Raises `ValueError` for a conversation of several messages where a model has no chat template, naming the row."""
    for row, prompt in enumerate(prompts):
        if isinstance(prompt, Chat) and len(prompt.messages) > 1 and not getattr(model, "chat", False):
            told = f"prompt {row} is a conversation of {len(prompt.messages)} messages"
            raise ValueError(f"{told}, and this model has no chat template: pass one text")


def checked_reward(
    reward: Any, batch: int, columns: Collection[str] | None = None, weights: Sequence[float] | None = None
) -> Any:
    """The reward, by its name too (`reward_from_string`), or the weighted sum of a list of them; `columns` are the
    names that it may ask for. Raises `ValueError` or `TypeError` for what is none, or belongs to other prompts."""
    if isinstance(reward, list | tuple):
        if not reward:
            raise ValueError("the reward is an empty list: pass at least one reward")
        return weighted([checked_reward(one, batch, columns) for one in reward], weights)
    if weights is not None:
        raise ValueError("reward_weights= belong to a list of rewards: pass reward=[...], one weight each")
    if isinstance(reward, str):
        reward = reward_from_string(reward, columns)
    if not callable(reward):
        raise TypeError(f"the reward is {shown(reward)}: pass a function of texts, or a reward's name")
    if isinstance(reward, type):
        raise TypeError(f"the reward is the class {reward.__name__}: pass one of its objects, {reward.__name__}(...)")
    for pool in pools_in(reward):
        if isinstance(pool, Drafts) and len(pool.texts) != batch:
            told = f"the drafts belong to {len(pool.texts)} prompts, not {batch}"
            raise ValueError(f"{told}: draw them for these prompts")
    return reward


def checked_weights(name: str, value: Any) -> list[float] | None:
    """Finite numbers, from a list, an array or a tensor, or None."""
    hint = "give one number a reward"
    if value is None:
        return None
    return [number(f"{name}[{at}]", one, hint) for at, one in enumerate(entries(value, name, hint))]


def checked_rows(seed: int, rows: Sequence[int] | Tensor | None, watch: Sequence[int], batch: int) -> Tensor:
    """The rows' identities (B,). Raises `ValueError` or `TypeError` for a wrong number of them, for what is no whole
    number, and for a seed, an identity or a watched row out of range."""
    given = range(batch) if rows is None else whole_numbers("rows", rows, "give one identity a prompt")
    if len(given) != batch:
        raise ValueError(f"there are {len(given)} row identities for {batch} prompts: give one a prompt")
    wrong = [row for row in checked_watch("watch", watch) if not 0 <= row < batch]
    if wrong:
        raise ValueError(f"row {wrong[0]} cannot be watched: the rows are 0 to {batch - 1}")
    identities = torch.tensor(list(given), device="cpu")
    return Rng.seeded(checked_seed("seed", seed), identities).rows  # refuses an identity out of range


def checked_model(model: Any) -> Any:
    """A text model, or the name of one. Raises `TypeError` for an object of another library, saying how to wrap it."""
    if model is None or isinstance(model, str | Path):
        return model
    if isinstance(model, type):
        raise TypeError(f"the model is the class {model.__name__}: pass one of its objects, or a name")
    if all(hasattr(model, name) for name in ("prepare", "encode", "decode", "noise")):
        return model
    home = type(model).__module__.partition(".")[0]
    if home == "diffusers":
        raise TypeError(f"the model is a {type(model).__name__} of diffusers: save_pretrained it, and pass the folder")
    if isinstance(model, torch.nn.Module) or home in ("transformers", "peft"):
        raise TypeError(f"the model is a {type(model).__name__}: wrap it by iterref.load(model=..., tokenizer=...)")
    if isinstance(model, Denoiser):
        raise TypeError(f"the model is a {type(model).__name__}, a denoiser: put it into a PrefixModel, or use sample")
    raise TypeError(f"the model is {shown(model)}: pass a name, a folder, or what iterref.load returns")


def checked_sampler(name: str, value: Any) -> Any:
    """A method, its name with options, or None."""
    if value is None or isinstance(value, str | Sampler):
        return value
    if isinstance(value, type):
        raise TypeError(f"{name}= is the class {value.__name__}: pass one of its objects, {value.__name__}(...)")
    raise TypeError(f"{name}= is {shown(value)}: pass a method or its name, as in {name}='iterref:tries=16'")


def checked_seed(name: str, value: Any) -> int:
    """A whole number in [0, 2^64)."""
    seed = whole_number(name, value, "pass one such as seed=0")
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed must lie in [0, 2^64), got {seed}")
    return seed


def checked_budget(name: str, value: Any) -> BudgetLike | None:
    """A `Budget`, a number, a pair of numbers, or None. `Budget` itself refuses what is out of range."""
    if value is None or isinstance(value, Budget):
        return value
    if isinstance(value, tuple):
        if len(value) != 2:
            raise TypeError(f"{name}= has {len(value)} entries: pass a number, a pair of numbers, or a Budget")
        first, second = (number(name, part, "a pair holds two numbers") for part in value)
        return first, second
    found = number(name, value, f"pass a number as in {name}=64, a pair ({name}=(64, 1024)), or a Budget")
    if isnan(found):
        raise ValueError(f"{name}= is nan: a budget needs positive numbers")
    return int(found) if found.is_integer() else found


def checked_forbidden(name: str, value: Any) -> list[int]:
    """Token ids. Raises `TypeError` for words, which only a tokenizer knows the ids of."""
    word = value if isinstance(value, str) else next((one for one in entries(value) if isinstance(one, str)), None)
    if word is not None:
        how = f"look its ids up in the tokenizer, as in {name}=[model.codec.tokenizer.token_to_id({word!r})]"
        raise TypeError(f"{name}= lists token ids, and has the string {word!r}: {how}")
    found = whole_numbers(name, value, "list token ids")
    if any(token < 0 for token in found):
        raise ValueError(f"{name}= has the token {min(found)}: token ids are 0 or more")
    return found


def checked_constraint(name: str, value: Any) -> Pattern | list[Pattern] | None:
    """A pattern, a list of them, or None. Raises `TypeError` or `ValueError` for what is none, or has no text."""
    if value is None:
        return None
    several = isinstance(value, list | tuple)
    found = [pattern_of(one) for one in (value if several else [value])]
    for one in found:
        compiled(one.regex)  # refuses what does not compile
    return found if several else found[0]


def checked_watch(name: str, value: Any) -> list[int]:
    """Row numbers."""
    return whole_numbers(name, value, "list the rows whose states are kept, as in watch=[0, 1]")


def _number(name: str, value: Any) -> float | None:
    return None if value is None else number(name, value, f"pass one such as {name}=0.3")


def _whole(name: str, value: Any) -> int | None:
    return None if value is None else whole_number(name, value, f"pass one such as {name}=4")


def _callback(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise TypeError(f"{name}= is {shown(value)}: pass a function of an `iterref.sampling.Progress`")
    return value


def _start(name: str, value: Any) -> Any:
    if value is None or value == "drafts" and isinstance(value, str):
        return value
    told = f"{name}={brief(value)} is no start: pass {name}='drafts', with a consensus reward, or leave it out"
    raise ValueError(f"{told} (existing texts are refined by iterref.refine)")


def _text(value: Any, where: str) -> str:
    """A string that a file can hold. Raises `TypeError` or `ValueError`, saying `where` it stands."""
    if not isinstance(value, str):
        hints: list[tuple[Any, str]] = [
            (bytes, "decode it, as in .decode('utf-8')"),
            (Path, "pass what the file holds, as in .read_text('utf-8')"),
            ((Mapping, list, tuple), "pass one string a prompt (a conversation is an `iterref.models.Chat`)"),
            (object, "it is missing: fill it in, or leave the row out" if missing(value) else "pass a string"),
        ]
        raise TypeError(f"{where} is {shown(value)}: {next(hint for kind, hint in hints if isinstance(value, kind))}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        told = f"{where} has half of a surrogate pair at character {error.start}, which no text has"
        raise ValueError(f"{told}: take it out, as in .encode('utf-8', 'ignore').decode()") from None
    return value if isinstance(value, Text | Chat) else str(value)  # these carry more; numpy has strings of its own


# By the names that `generate`, `edit` and the steps of a session share.
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("alpha", "temperature", "drift", "strength"), _number),
    **dict.fromkeys(("max_rows", "room", "n"), _whole),
    "seed": checked_seed,
    "budget": checked_budget,
    "sampler": checked_sampler,
    "forbidden": checked_forbidden,
    "constraint": checked_constraint,
    "watch": checked_watch,
    "progress": flag,
    "start": _start,
    "callback": _callback,
}
