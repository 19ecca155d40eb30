"""Batches: the texts of all requests, in runs of those that have equal settings.

    queue -> the oldest text and all that wait with its settings, up to a limit -> one `generate` -> each to its request

A text's random stream is `rows=[identity(seed, prompt)]` of `generate`, so a text is the same whatever runs beside it
(of a network up to rounding, which batches of another size may change), and Python gives the same one. While a run is
under way others wait, and go into the next together. A run that fails is halved until the text that is at fault is
alone; one that nobody waits for any more is broken off at its next step. One thread runs the model.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from threading import Condition, Thread
from time import monotonic
from typing import Any

from iterref.budget import Budget
from iterref.generation import blank_canvas, generate
from iterref.lines import finite
from iterref.models.text.stopping import Stopping, before, continuation
from iterref.random import Undrawable, identity
from iterref.result import Result
from iterref.rewards.base import RewardError
from iterref.rewards.text import text_ids
from iterref.sampling import Progress
from iterref.serving.asked import Settings
from iterref.serving.limits import REWARD_CALLS, Limits, Refused
from iterref.serving.metrics import Metrics
from iterref.serving.offered import Offered

SUREST = 0.01  # the temperature that 0 stands for: a token half as likely as the likeliest has 2^-100 of its share
log = logging.getLogger("iterref.serving")


@dataclass(frozen=True)
class Written:
    """A finished text: its reward (-inf where it is forbidden), its tokens up to its end, and whether it fills its
    canvas without an end or a stop string."""

    text: str
    reward: float
    tokens: int
    full: bool


@dataclass(eq=False)
class Ticket:
    """A prompt of a request in the queue, with its `place` among the request's. `events` gets (place, event): a dict a
    step where it is `watched`, and at last a list of n `Written`, or a `Refused`. `gone` says that nobody waits."""

    place: int
    prompt: str
    seed: int
    settings: Settings
    columns: Mapping[str, Any]
    deadline: float
    events: asyncio.Queue[tuple[int, Any]]
    loop: asyncio.AbstractEventLoop
    watched: bool = False
    gone: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """What texts of one run have in common."""
        return self.settings, tuple(sorted(self.columns))

    @property
    def late(self) -> bool:
        """Whether nobody will read it: its client left, or its time is over."""
        return self.gone or monotonic() > self.deadline

    def tell(self, event: Any) -> None:
        """Hands an event to the request, from any thread."""
        with suppress(RuntimeError):  # of a loop that has ended, where nobody listens
            self.loop.call_soon_threadsafe(self.events.put_nowait, (self.place, event))


class Abandoned(Exception):
    """Nobody waits for the texts of a run."""


class Batches:
    """The queue of a model, and the thread that runs it; a context manager. `options` are further ones of every
    `generate`, such as max_rows."""

    def __init__(self, model: Any, offered: Offered, limits: Limits, metrics: Metrics, **options: Any) -> None:
        self.model, self.offered, self.limits, self.metrics, self.options = model, offered, limits, metrics, options
        self.running, self._stopped = 0, False
        self._queue, self._more, self._open = deque[Ticket](), Condition(), True
        self._thread = Thread(target=self._serve, name="iterref-batches", daemon=True)

    def __enter__(self) -> Batches:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        self.stop()
        self._thread.join()

    def close(self) -> None:
        """Refuses what waits and what comes; the run under way goes on."""
        with self._more:
            self._open = False
            left, self._queue = [*self._queue], deque()
            self._more.notify()
        for ticket in left:
            ticket.tell(closed())

    def stop(self) -> None:
        """Breaks off the run under way at its next step."""
        self._stopped = True

    @property
    def alive(self) -> bool:
        """Whether texts are still made."""
        return self._open and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Texts in the queue."""
        with self._more:
            return _texts(self._queue)

    def put(self, tickets: Sequence[Ticket]) -> None:
        """Adds all tickets of a request. Raises `Refused` where the queue has no room for them, or is closed."""
        most = self.limits.queue
        if _texts(tickets) > most:
            raise Refused(f"{_texts(tickets)} texts are more than the {most} that may wait: send fewer prompts, or n")
        with self._more:
            if not self._open:
                raise closed()
            self._let_go()
            if _texts(self._queue) + _texts(tickets) > most:
                raise Refused("too many texts wait already: try again later", 429, code="queue_full")
            self._queue.extend(tickets)
            self._more.notify()

    def _serve(self) -> None:
        while tickets := self._next():
            self._run(tickets)
            self.running = 0

    def _next(self) -> list[Ticket]:
        """The oldest ticket and those that can run beside it; none when the queue is closed."""
        with self._more:
            while self._open:
                self._let_go()
                if self._queue:
                    first = self._queue[0]
                    room = max(1, self.limits.batch // first.settings.n)
                    found = [ticket for ticket in self._queue if ticket.key == first.key][:room]
                    self._queue = deque(ticket for ticket in self._queue if ticket not in found)
                    self.running = _texts(found)
                    return found
                self._more.wait()
            return []

    def _let_go(self) -> None:
        """Takes those out of the queue that nobody waits for, or they would fill it until the run under way ends."""
        late = [ticket for ticket in self._queue if ticket.late]
        self.metrics.add("iterref_given_up_total", _texts(late))
        self._queue = deque(ticket for ticket in self._queue if ticket not in late)

    def _run(self, tickets: Sequence[Ticket]) -> None:
        """Makes the texts of tickets with equal settings. Where that fails, halves are tried, until the ticket that is
        at fault is alone, and is told."""
        try:
            found = self._made(tickets)
        except Abandoned:
            self.metrics.add("iterref_given_up_total", _texts(tickets))
            for ticket in tickets:
                ticket.tell(closed())  # which nobody reads unless the server is being shut down
        except Exception as error:  # whatever it is, the next run is another
            if len(tickets) > 1:
                middle = len(tickets) // 2
                self._run(tickets[:middle])
                self._run(tickets[middle:])
            else:
                tickets[0].tell(_refusal(error, tickets[0].place))
        else:
            for ticket, written in zip(tickets, found, strict=True):
                ticket.tell(written)

    def _made(self, tickets: Sequence[Ticket]) -> list[list[Written]]:
        """The n texts of every ticket. Raises `Abandoned` when nobody waits for any, and as `generate` does."""
        settings, columns = tickets[0].settings, tickets[0].columns
        model, begun, n = self._model(settings), monotonic(), settings.n
        result = generate(
            model, [ticket.prompt for ticket in tickets], reward=self.offered.reward(settings.reward, columns),
            sampler=settings.sampler, alpha=settings.alpha, temperature=settings.temperature or SUREST,
            budget=budget_of(settings), rows=[identity(ticket.seed, ticket.prompt) for ticket in tickets],
            columns={name: [ticket.columns[name] for ticket in tickets] for name in columns},
            num_return_sequences=n, callback=lambda progress: self._watch(tickets, model, progress), **self.options,
        )  # fmt: skip
        written = _written(self.model, model, [ticket.prompt for ticket in tickets for _ in range(n)], result, settings)
        for name, value in {
            "runs": 1, "run_seconds": monotonic() - begun, "texts": len(written),
            "tokens": sum(one.tokens for one in written), "nfe": result.cost.nfe * len(written),
            "reward_calls": result.cost.reward_calls * len(written),
        }.items():  # fmt: skip
            self.metrics.add(f"iterref_{name}_total", value)
        return [written[first : first + n] for first in range(0, len(written), n)]

    def _model(self, settings: Settings) -> Any:
        """The model with answers of the length that is asked for, which end before its stop strings. Raises `Refused`
        where its texts cannot be so short."""
        model = self.model
        if settings.tokens is not None:
            try:
                model = model.with_length(settings.tokens)
            except ValueError:
                if settings.tokens < model.length:
                    told = f"this model writes {model.length} positions at once, and max_tokens is {settings.tokens}"
                    raise Refused(f"{told}: leave it out, or send {model.length} or more", param="max_tokens") from None
        return Stopping(model, settings.stops) if settings.stops and not getattr(model, "continues", False) else model


    def _watch(self, tickets: Sequence[Ticket], model: Any, progress: Progress) -> None:
        """Tells the tickets that are watched what a step has led to. Raises `Abandoned` when nobody waits for any."""
        if self._stopped or all(ticket.late for ticket in tickets):
            raise Abandoned
        for place, ticket in enumerate(tickets):
            if ticket.watched and not ticket.late:
                rows = slice(place * ticket.settings.n, (place + 1) * ticket.settings.n)
                ticket.tell(_states(model, progress, rows))


def closed() -> Refused:
    """What a client is told at the server's end."""
    return Refused("the server is being shut down: try another", 503)


def budget_of(settings: Settings) -> Budget:
    """What a text may cost: its NFE, and at most `REWARD_CALLS` reward calls for each of them."""
    return Budget(nfe=settings.nfe, reward_calls=REWARD_CALLS * settings.nfe)


def prompt_tokens(model: Any, prompt: str) -> int:
    """The tokens of a prompt's own text; its words where the model has no tokenizer of its own."""
    try:
        return len(model.codec.ids([prompt])[0])
    except (AttributeError, ValueError):
        return len(prompt.split())


def _written(whole: Any, model: Any, prompts: Sequence[str], result: Result, settings: Settings) -> list[Written]:
    """The texts of a result, without their prompts, cut and counted. `whole` is the model without stop strings."""
    texts = whole.decode(result.tokens)
    counts = map(len, text_ids(result.tokens, texts, blank_canvas(model), getattr(model, "ends", ())))
    found = []
    for prompt, text, count, reward in zip(prompts, texts, counts, result.rewards.tolist(), strict=True):
        own = continuation(model, prompt, text)
        cut = before(own, settings.stops)
        full = count >= result.tokens.shape[1] and cut == own
        given = prompt_tokens(model, prompt) if own != text else 0
        kept = count - given if cut == own else prompt_tokens(model, cut)  # what stands behind a stop nobody gets
        found.append(Written(str(cut), reward, max(0, kept), full))
    return found


def _states(model: Any, progress: Progress, rows: slice) -> list[dict[str, Any]]:
    """What a step has led to, of some rows of a run: their texts now, and the best with its reward, if there is one."""
    spent = {"step": progress.step, "steps": progress.steps, "nfe": progress.cost.nfe}
    now, best = model.decode(progress.tokens[rows]), model.decode(progress.best.tokens[rows])
    return [
        {**spent, "text": str(text), "best": str(kept) if reward > -inf else None, "reward": finite(reward)}
        for text, kept, reward in zip(now, best, progress.best.reward[rows].tolist(), strict=True)
    ]


def _refusal(error: Exception, place: int) -> Refused:
    """What a client is told of an error; what is no fault of the request is for the log alone."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, ValueError) and not isinstance(error, RewardError | Undrawable):
        return Refused(str(error).replace("prompt 0 ", f"prompt {place} ", 1))
    log.error("a text failed", exc_info=error)
    if isinstance(error, RewardError):
        return Refused("the reward failed at this text, and the server's log says how", 500)
    return Refused("the server failed at this text, and its log says how", 500)


def _texts(tickets: Iterable[Ticket]) -> int:
    return sum(ticket.settings.n for ticket in tickets)
