"""lm-evaluation-harness: the model type `iterref`, registered when this module is imported.

    python -m iterref.integrations.lm_eval --model iterref --model_args pretrained=FOLDER,reward=NAME,nfe=64 --tasks T

    generate_until          `iterref.generate` with the harness' stop strings and max_gen_toks
    loglikelihood           log p(continuation | context), by groups as in `iterref.likelihood`
    loglikelihood_rolling   the same of a text by itself, in windows of the model's length

A model that writes answers of any length has one of exactly the continuation's; with another the positions behind it
are left open, and under noise without a mask filled up. With as many evaluations as tokens the sum is the chain rule in
one order; with fewer, tokens of a group are taken to be independent.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from copy import copy
from importlib import import_module
from types import new_class
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from iterref import __version__
from iterref.decoding import confidence
from iterref.drafts import no_reward
from iterref.fence import fenced
from iterref.generation import generate
from iterref.likelihood import EVALUATIONS, in_all, token_scores
from iterref.loading import load
from iterref.models.base import Chat
from iterref.models.text.stopping import Stopping, before, continuation
from iterref.optional import MissingExtra, require
from iterref.problem import Problem
from iterref.random import identity
from iterref.run import Run

T = TypeVar("T")
NAME = "iterref"
# What the harness' tasks ask of a sampler that writes from left to right; the others are this model type's own.
KNOWN = ("until", "max_gen_toks", "temperature", "do_sample")
log = logging.getLogger("iterref.lm_eval")


class Harness:
    """A model as the harness asks it. `pretrained` and the `place` are those of `iterref.load` (length, device, dtype,
    ...); `sampler`, `reward`, `nfe` (NFE a text) and the `options` of `generate` (alpha, temperature, ...) are those of
    `iterref.generate`; `columns` names the fields of a task's documents that the reward is given, joined by "+".

    A text is a function of (`seed`, prompt, how many times the prompt was asked before), whatever the batch. A task
    that asks for greedy decoding (temperature 0) gets the temperature given here, 1 unless said: a method that compares
    candidates needs some that differ. Raises as `iterref.load` does, and `ValueError` for what is out of range."""

    def __init__(
        self, pretrained: str = "tiny-news", *, sampler: str | None = None, reward: str = "consensus", nfe: int = 256,
        seed: int = 0, batch_size: int | str = 16, evaluations: int = EVALUATIONS, columns: str = "",
        alpha: float | None = None, temperature: float = 1.0, max_rows: int | None = None, device: str | None = None,
        max_batch_size: int | None = None, **place: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.name, self.seed, self.evaluations = pretrained, seed, int(evaluations)
        self.batch = 16 if isinstance(batch_size, str) and not batch_size.isdecimal() else int(batch_size)
        if self.batch < 1 or self.evaluations < 1:
            raise ValueError(f"batch_size={self.batch}, evaluations={self.evaluations}: give at least 1 of each")
        self.max_rows = max_rows
        self.options: dict[str, Any] = {"sampler": sampler, "reward": reward, "budget": nfe, "alpha": alpha}
        self.temperature, self.columns = temperature, [name for name in str(columns).split("+") if name]
        if str(device).startswith("cuda") and not torch.cuda.is_available():
            device = None  # the harness' own default, which it gives on every machine
        self.model: Any = load(pretrained, device=device, **place)
        self.plain = copy(self.model)  # which reads a prompt as it stands
        self.plain.chat = False
        self._told = set[str]()

    @property
    def tokenizer_name(self) -> str:
        """What the harness knows cached prompts by."""
        return self.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The checkpoint's template, which the harness records."""
        return self.model.codec.template if self.model.chat else ""

    def apply_chat_template(self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the prompt of a model with a chat template, whose text is all of it, as the harness caches
        and logs it. Raises `ValueError` for another model, and where the answer is begun already."""
        if not self.model.chat:
            raise ValueError(f"{self.name} has no chat template: leave --apply_chat_template out")
        said = [(message["role"], message["content"]) for message in chat_history]
        return Chat(said, self.model.codec.asked(Chat(said)))

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside the results."""
        return {"iterref": __version__, "temperature": self.temperature, "seed": self.seed, **self.options}

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """A text for every request (context, options), up to its first stop string. Raises `ValueError` before any of
        them is made for a context that the model cannot read."""
        asked, rows = Counter[str](), list[int]()
        contexts = [request.args[0] for request in requests]
        for context in contexts:
            rows.append(identity(self.seed, context, asked[context]))
            asked[context] += 1
        texts = [""] * len(requests)
        batches = self._batches([
            (self._settings(request.args[1]), isinstance(context, Chat))
            for request, context in zip(requests, contexts, strict=True)
        ])  # fmt: skip
        for (_, chat), places in batches:
            (self.model if chat else self.plain).prepare([contexts[place] for place in places])
        for (settings, chat), places in tqdm(batches, desc="iterref", disable=disable_tqdm):
            stops, size, temperature = settings
            model = self._sized(self.model if chat else self.plain, size)
            ended: Any = Stopping(model, stops) if stops and not model.continues else model
            prompts, docs = [contexts[place] for place in places], [requests[place].doc for place in places]
            result = generate(
                ended, prompts, rows=[rows[place] for place in places], temperature=temperature,
                columns={name: [doc[name] for doc in docs] for name in self.columns}, max_rows=self.max_rows,
                **self.options,
            )  # fmt: skip
            for place, prompt, text in zip(places, prompts, result.texts or [], strict=True):
                texts[place] = str(before(continuation(model, prompt, text), stops))
                self.cache_hook.add_partial("generate_until", requests[place].args, texts[place])  # type: ignore[attr-defined]
        return texts

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """log p(continuation | context) in nats of every request, and whether each of its tokens is the likeliest."""
        pairs = []
        for request in requests:
            context, text = request.args
            if not isinstance(context, Chat):  # a space belongs to the word behind it
                text = context[len(context.rstrip()) :] + text
                context = context.rstrip()
            pairs.append((context, self.model.codec.ids([text])[0]))
        found = self._judged(pairs, disable_tqdm)
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)  # type: ignore[attr-defined]
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of every request's text in nats: the sum over windows of the model's length, each by itself."""
        windows, owners = list[tuple[str, list[int]]](), list[int]()
        for place, request in enumerate(requests):
            ids = self.model.codec.ids([request.args[0]])[0]
            size = self.model.length - len(getattr(self.model, "begin", []))
            for first in range(0, len(ids), size):
                windows.append(("", ids[first : first + size]))
                owners.append(place)
        totals = [0.0] * len(requests)
        for owner, (log_p, _) in zip(owners, self._judged(windows, disable_tqdm), strict=True):
            totals[owner] += log_p
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)  # type: ignore[attr-defined]
        return totals

    def _judged(self, pairs: Sequence[tuple[str, list[int]]], quiet: bool) -> list[tuple[float, bool]]:
        """log p of tokens given a context, pair by pair, in batches of equal length."""
        found: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        batches = self._batches([(len(ids), isinstance(context, Chat)) for context, ids in pairs])
        for (size, chat), batch in tqdm([one for one in batches if one[0][0]], desc="iterref", disable=quiet):
            model = self._sized(self.model if chat else self.plain, size)
            prompts, answers = [pairs[place][0] for place in batch], [pairs[place][1] for place in batch]
            judged = judge(model, prompts, answers, self.evaluations, self.max_rows)
            for place, answer in zip(batch, judged, strict=True):
                found[place] = answer
        return found

    def _settings(self, given: dict[str, Any]) -> tuple[tuple[str, ...], int | None, float]:
        """Stop strings, the most tokens and the temperature of a request; what is not followed is told once."""
        until = given.get("until") or []
        stops = tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)
        for name in sorted({*given} - {*KNOWN}):
            self._tell(f"{name}={given[name]!r} of a task is not followed: this method draws as its own options say")
        if given.get("temperature") == 0 or given.get("do_sample") is False:
            how = f"texts are drawn at temperature {self.temperature:g}, as model_args say"
            self._tell(f"a task asks for greedy decoding: {how}")
        size = given.get("max_gen_toks")
        return stops, None if size is None else int(size), float(given.get("temperature") or self.temperature)

    def _sized(self, model: Any, size: int | None) -> Any:
        """The model with answers of so many tokens, where it writes answers of any length."""
        if size is None:
            return model
        try:
            return model.with_length(size)
        except ValueError:
            if size > model.length:
                self._tell(f"{self.name} writes {model.length} positions at the most, and {size} are asked for")
            return model

    def _tell(self, told: str) -> None:
        if told not in self._told:
            self._told.add(told)
            log.warning(told)

    def _batches(self, keys: Sequence[T]) -> list[tuple[T, list[int]]]:
        """The places of equal keys, as many at a time as are in a batch."""
        groups: defaultdict[T, list[int]] = defaultdict(list)
        for place, key in enumerate(keys):
            groups[key].append(place)
        size = self.batch
        return [(key, of[at : at + size]) for key, of in groups.items() for at in range(0, len(of), size)]


def judge(
    model: Any, prompts: Sequence[str], ids: Sequence[Sequence[int]], evaluations: int, max_rows: int | None = None
) -> list[tuple[float, bool]]:
    """log p of the tokens of B answers, equally many each, given their prompts, in nats, and whether each token is the
    likeliest in its context. Raises `ValueError` for answers that the model's canvas has no room for."""
    with fenced(model.device), torch.inference_mode():
        denoiser, canvas, free = model.prepare(prompts)
        size, begins = len(ids[0]), free.int().argmax(1)
        if size > int(free.sum(1).min()):
            row = int(free.sum(1).argmin())
            told = f"answer {row} has {size} tokens and the canvas room for {int(free.sum(1).min())}"
            raise ValueError(f"{told}: shorten it, or load with a greater length=")
        answer = begins[:, None] + torch.arange(size, device=canvas.device)
        x = canvas.scatter(1, answer, torch.tensor(ids, device=canvas.device))
        if denoiser.noise.mask is None:  # nothing stands for what is open: the answer ends and is filled up
            counted = torch.zeros_like(free).scatter(1, answer, True)
            x = x.where(~free | counted, model.fill)
        run = Run(Problem(denoiser, no_reward, x.where(~free, 0), free, max_rows=max_rows))
        scores = token_scores(run, x, (confidence, _beaten), in_all(run, evaluations))
        log_p, beaten = scores.gather(2, answer.expand(2, *answer.shape)).sum(2)
    return list(zip(log_p.tolist(), (beaten == 0).tolist(), strict=True))


def _beaten(p: Tensor, drawn: Tensor, log: bool = True) -> Tensor:
    """Where other tokens than the drawn ones are likeliest, a score."""
    return p.argmax(1) != drawn


def register() -> Callable[..., Any]:
    """The harness' class of this model type, registered under `NAME`. Raises `MissingExtra` without the harness."""
    require("lm_eval", "lm-eval", "the model type iterref")
    from lm_eval.api.model import LM
    from lm_eval.api.registry import model_registry, register_model

    import_module("lm_eval.models")  # the harness registers its own where there is none: this one must not be the first
    if NAME in model_registry:  # as where the module runs as a program, and is imported by it too
        return model_registry.get(NAME)
    return register_model(NAME)(new_class("IterRefLM", (Harness, LM)))


try:
    IterRefLM = register()
except MissingExtra as error:
    if __name__ != "__main__":
        raise
    raise SystemExit(f"Error: {error}") from None


def main() -> None:
    """The harness' own command, which knows the model type by now."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
