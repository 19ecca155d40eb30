"""The command `serve`: a model behind OpenAI's API."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from iterref.cli.config import configured
from iterref.cli.options import PLACE, place_of, together
from iterref.cli.reading import read_reward
from iterref.cli.refusals import refusals
from iterref.serving.limits import LARGE, Limits

# The limits of a server, by the names of their options.
MOST = {
    "body": "Bytes of a request.", "queue": "Texts that wait.", "batch": "Texts of one run.",
    "prompts": "Prompts of a request.", "prompt_tokens": "Of a prompt.", "n": "Texts of a prompt.",
    "tokens": "Of a text.", "nfe": "Of a text.",
}  # fmt: skip
SECONDS = {"timeout": "Seconds until an answer.", "patience": "Seconds in which a client has to send a request."}
DEFAULTS = {field.name: field.default for field in fields(Limits)}
LIMITS = together(
    *(click.option(f"--max-{name.replace('_', '-')}", f"max_{name}", type=click.IntRange(min=1), default=DEFAULTS[name],
                   show_default=True, help=told) for name, told in MOST.items()),
    *(click.option(f"--{name}", type=click.FloatRange(min=0, min_open=True), default=DEFAULTS[name], show_default=True,
                   help=told) for name, told in SECONDS.items()),
)  # fmt: skip


@click.command()
@click.argument("model", default="tiny-news")
@click.option("--reward", "rewards", multiple=True, help="The default, again for others that clients may name.")
@click.option("--sampler", help="Of a request that names none.  [default: auto]")
@click.option("--nfe", "budget", type=click.IntRange(min=1), default=256, show_default=True, help="Likewise, a text.")
@click.option("--temperature", type=click.FloatRange(0, LARGE), default=1.0, show_default=True, help="Likewise.")
@click.option("--alpha", type=click.FloatRange(0, LARGE, min_open=True), help="Likewise; found in the run by default.")
@click.option("--name", help="What clients call the model.  [default: the last part of MODEL]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Others than this machine need --api-key.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--api-key", envvar="ITERREF_API_KEY", help="Or ITERREF_API_KEY in the environment.")
@LIMITS
@PLACE
@click.option("--max-rows", type=click.IntRange(min=1), help="Most sequences in one call of the model.")
@configured
def serve(
    model: str, rewards: tuple[str, ...], sampler: str | None, budget: int, temperature: float, alpha: float | None,
    name: str | None, host: str, port: int, api_key: str | None, max_rows: int | None, **options: Any,
) -> None:  # fmt: skip
    """MODEL (a name, a folder or a hub name) behind OpenAI's API, until Ctrl-C: /v1/completions, /v1/chat/completions,
    /v1/models, /health, /metrics. Clients name methods, rewards of the registry and numbers, and no file."""
    with refusals():
        limits = Limits(**{name: options.pop(f"max_{name}") for name in MOST},
                        **{name: options.pop(name) for name in SECONDS})  # fmt: skip
        place = place_of(options)
        if budget > limits.nfe:
            raise ValueError(f"--nfe {budget} is more than --max-nfe {limits.nfe}: raise that, or lower it")
        from iterref.optional import require

        require("uvicorn", "serve", "a server")
        from iterref.budget import fitted
        from iterref.generation import begun, method_of
        from iterref.loading import load
        from iterref.serving.asked import Settings
        from iterref.serving.batches import budget_of
        from iterref.serving.server import serve as run

        rewards = rewards or ("consensus",)
        settings = Settings(sampler=sampler, reward=rewards[0], nfe=budget, alpha=alpha, temperature=temperature)
        method, pool = begun(method_of(sampler), read_reward(rewards[0]), None)
        fitted(method, budget_of(settings), pool)  # or every request that says nothing would be refused
        loaded = load(model, **place)
        with suppress(KeyboardInterrupt):  # which is how a server is ended
            run(
                loaded, name or Path(model).name, rewards, host=host, port=port, key=api_key, limits=limits,
                settings=settings, started=lambda url, _: click.echo(f"{model} is served at {url}", err=True),
                max_rows=max_rows,
            )  # fmt: skip
