"""The command line: demo, generate, bench, train, check, ls.

    exit codes:  0 done,  1 failed on the way,  2 wrong use, with one sentence on standard error

Whatever needs torch is imported by the command that needs it, so that help and lists answer at once; `ls` reads the
methods' options from their source text.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import click

from iterref import __version__

HOME = Path(__file__).parent
MODELS = {
    "tiny-news": "the bundled summariser of short news sentences",
    "FOLDER": "or a hub name: MDLM, UDLM, Duo, SEDD, LLaDA, Dream, DiffusionGemma, masked language models",
}
REWARDS = {
    "consensus": "agreement with the model's own drafts (mean ROUGE-L); consensus:n=8 sets their number",
    "length": "nearness to 8 words; length:12 to 12 words",
    "rouge": "ROUGE-L against the field `reference` or `summary` of JSON input: an upper bound, it sees the answer",
    "classifier": "log-probability of a label; classifier:sentiment:positive, or any FOLDER:LABEL",
    "perplexity": "mean log-likelihood a token; perplexity:prose, or any FOLDER of a causal language model",
    "FILE.py:NAME": "a function of your own: NAME(completions, prompts=..., **fields) -> one number a text",
}


class Declared(NamedTuple):
    """A dataclass as its source declares it: the file's first line, and (name, default) of every option."""

    summary: str
    options: list[tuple[str, Any]]


class WrongUse(click.ClickException):
    """One sentence on standard error, exit code 2."""

    exit_code = 2


@contextmanager
def doors() -> Iterator[None]:
    """Refusals at the door become exit code 2; what fails later becomes exit code 1; neither shows a traceback."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise WrongUse(str(error)) from error
    except (RuntimeError, OSError) as error:
        raise click.ClickException(str(error)) from error


def declared(file: Path, name: str | None = None) -> Declared:
    """Reads a dataclass from a source file without importing it: the one called `name`, or that of `SAMPLER = ...`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if name is None:
        assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
        name = ast.unparse(assigned["SAMPLER"])
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    fields = [node for node in found.body if isinstance(node, ast.AnnAssign)]
    homes = {
        alias.name: HOME.parent.joinpath(*(node.module or "").split(".")).with_suffix(".py")
        for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    homes |= {node.name: file for node in tree.body if isinstance(node, ast.ClassDef)}
    options: dict[str, Any] = {}
    for base in map(ast.unparse, found.bases):  # base classes have options of their own
        if homes.get(base, file.parent).parent == HOME / "samplers":
            options |= dict(declared(homes[base], base).options)
    options |= {
        ast.unparse(field.target): ast.literal_eval(field.value) if field.value else ...
        for field in fields
        if "ClassVar" not in ast.unparse(field.annotation)
    }
    return Declared((ast.get_docstring(tree) or "").partition("\n")[0], list(options.items()))


def methods() -> dict[str, Declared]:
    """Every method with its options."""
    found = sorted(path for path in (HOME / "samplers").glob("*.py") if path.stem not in ("__init__", "base"))
    return {path.stem: declared(path) for path in found}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="iterref")
def main() -> None:
    """Reward-guided test-time refinement for discrete diffusion models."""


@main.command()
@click.option("--out", type=click.Path(dir_okay=False), default="iterref-demo.png", help="The picture to write.")
@click.option("--json", "as_json", type=click.Path(dir_okay=False), help="Write the table as JSON, too.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--budget", type=click.FloatRange(min=1), help="Denoiser rows a sentence, drafts included.")
def demo(out: str, as_json: str | None, seed: int, budget: float | None) -> None:
    """Four methods on the bundled model and sentences, at one budget."""
    with doors():
        from iterref import demo as show
        from iterref.generation import text_model
        from iterref.plots import reward_against_budget

        model, rows = text_model(None), show.sentences()
        budget = show.BUDGET if budget is None else budget
        pool = show.DRAFTS.cost().denoiser
        click.echo(f"{len(rows)} sentences, {budget:g} denoiser rows each; guided methods spend {pool:g} of them on")
        click.echo("the model's own drafts, agreement with which is the reward\n")
        found = show.compare(model, rows, budget=budget, seed=seed, progress=sys.stderr.isatty())
        click.echo(show.table(found))
        click.echo("\none sentence; `row` counts the denoiser rows spent so far, changed words stand in [brackets]\n")
        click.echo(show.story(found, model))
        if as_json is not None:
            Path(as_json).write_text(json.dumps(show.as_json(found), indent=1) + "\n", encoding="utf-8")
        title = f"tiny-news, {len(rows)} sentences: mean and standard error"
        click.echo(f"\nreward against budget: {reward_against_budget(found.points, out, title, 'consensus reward')}")


@main.command()
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
@click.option("--method", default=None, help="NAME:option=value,...; iterref with options for text unless given.")
@click.option("--reward", default="consensus", show_default=True, help="A name, or FILE.py:NAME (see `iterref ls`).")
@click.option("--budget", help="Rows a text: DENOISER or DENOISER,REWARD, or total=ROWS,depth=CALLS.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Below 1 the model is surer of itself.")
@click.option("--alpha", type=float, default=0.1, show_default=True, help="Smaller means more reward.")
@click.option("--start", type=click.Choice(["drafts"]), help="Refine the best of the consensus' own drafts.")
@click.option("--model", default="tiny-news", show_default=True, help="Or a folder, or a hub name (see `iterref ls`).")
@click.option("--length", type=click.IntRange(min=1), help="Positions of a canvas; the model's own unless given.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--max-rows", type=click.IntRange(min=1), help="Most rows in one call of the model.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines with document, text, reward and cost.")
def generate(file: IO[str], method: str | None, reward: str, budget: str | None, as_json: bool, **options: Any) -> None:
    """Texts for prompts: one prompt a line of FILE or standard input, or JSON lines with a field `document`."""
    with doors():
        prompts, columns = read_prompts(file)
        rows = None if budget is None else read_budget(budget)
        asked = read_reward(reward, columns)
        from iterref.generation import generate as run
        from iterref.loading import load
        from iterref.rewards.base import RewardError

        name, place = options.pop("model"), {key: options.pop(key) for key in ("length", "device", "dtype")}
        model, bar = load(name, **place), sys.stderr.isatty()
        try:
            result = run(
                model, prompts, reward=asked, sampler=method, budget=rows, columns=columns, progress=bar, **options
            )
        except RewardError as error:
            # what was finished before the reward failed is not lost
            partial = getattr(error, "partial", None)
            if partial is not None and bool(partial.rewards.isfinite().any()):
                write_texts(prompts, partial, as_json)
            raise
        write_texts(prompts, result, as_json)
        stuck = result.trace.stuck_rows()
        if stuck:
            which = ", ".join(map(str, stuck))
            click.echo(f"rows {which}: some step found only forbidden candidates (-inf) and kept the state", err=True)


def _train_options(command: Callable[..., None]) -> Callable[..., None]:
    """One command-line option a field of the training configuration."""
    for name, default in reversed(declared(HOME / "training.py", "TrainConfig").options):
        if name not in ("train", "out", "validation"):
            flag = "--" + name.replace("_", "-")
            command = click.option(flag, name, type=type(default), default=default, show_default=True)(command)
    return command


@main.command()
@click.argument("train", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--out", required=True, type=click.Path(file_okay=False), help="The folder to write.")
@click.option("--validation", type=click.Path(exists=True, dir_okay=False), help="Pairs to measure the loss on.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on from the folder's checkpoint.")
@_train_options
def train(resume: bool, **options: Any) -> None:
    """Trains a summariser on TRAIN: JSON lines with `document` and `summary`, .jsonl or .jsonl.gz."""
    with doors():
        from iterref import training

        config = training.TrainConfig(**options)
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        click.echo(f"written: {training.train(config, resume=resume)}")


@main.group()
def bench() -> None:
    """Benchmarks: every method at equal cost, measured and reported."""


@bench.command("world")
@click.option("--quick", is_flag=True, help="Two small worlds at two budgets, within a minute.")
@click.option("--out", type=click.Path(file_okay=False), help="The folder.  [default: benchmarks/results/world]")
@click.option("--json", "as_json", type=click.Path(dir_okay=False), help="Write all runs as a JSON list, too.")
@click.option("--world", "worlds", multiple=True, help="NOISE-LENGTH-VOCAB-REWARD-aALPHA; several times for several.")
@click.option("--method", "methods", multiple=True, help="NAME:option=value,option=value; all methods unless given.")
@click.option("--budget", help="In plain runs, as in 1,2,4.  [default: 1,2,4,8,16,32]")
@click.option("--account", type=click.Choice(["denoiser", "total"]), help="Which rows are equal; both unless given.")
@click.option("--rows", type=click.IntRange(min=2), help="Samples a run.  [default: 128]")
@click.option("--seeds", type=click.IntRange(min=1), help="Runs of each, under seeds 0, 1, ...  [default: 2]")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
def bench_world(quick: bool, out: str | None, as_json: str | None, budget: str | None, **options: Any) -> None:
    """Every method on Markov-chain worlds whose tilted law is exact. Finished runs are kept and not made again."""
    with doors():
        folder = Path(out or "benchmarks/results/world" + ("/quick" if quick else ""))
        account = options.pop("account")
        options |= {"budgets": read_budgets(budget), "accounts": account and (account,)}
        options["jobs"] = options["jobs"] or os.cpu_count()
        from iterref.bench import report, world

        small: dict[str, Any] = {"worlds": world.QUICK, "budgets": (1, 4), "rows": 64, "seeds": 1} if quick else {}
        task = world.Task(folder, quick=quick, **(small | {name: value for name, value in options.items() if value}))
        runs, facts = world.measure(task, progress=sys.stderr.isatty())
        paths = report.write(runs, facts, folder)
        if as_json is not None:
            Path(as_json).write_text(json.dumps(world.as_json(runs), indent=1) + "\n", encoding="utf-8")
        click.echo(report.brief(runs))
        click.echo(f"\nwritten: {', '.join(map(str, [task.runs.path, *paths[:3]]))} and {len(paths) - 3} pictures")


@bench.command("speed")
@click.option("--quick", is_flag=True, help="Small batches and few repetitions, within a minute.")
@click.option("--json", "as_json", type=click.Path(dir_okay=False), help="Write all figures as JSON, too.")
@click.option("--case", "cases", multiple=True, help="random-2, tiny-news, mdlm-170m, llada-8b; may be given again.")
@click.option("--length", "lengths", multiple=True, type=click.IntRange(min=1), help="Positions; may be given again.")
@click.option("--reward", type=click.Choice(["free", "rouge"]), default="free", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", help="float32 or bfloat16.  [default: float32 on a CPU, bfloat16 elsewhere]")
@click.option("--compile", "compiled", type=click.Choice(["dynamic", "static"]), default="", help="Have torch compile it.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of torch, on a CPU.")
@click.option("--rows", type=click.IntRange(min=1), help="Samples side by side.  [default: 64]")
@click.option("--repeats", type=click.IntRange(min=1), help="Of every timing.  [default: 5]")
def bench_speed(quick: bool, as_json: str | None, cases: tuple[str, ...], threads: int, **options: Any) -> None:
    """What a run costs beyond its rows, against the very same calls alone; and what more candidates cost."""
    with doors():
        import torch

        from iterref.bench import shapes, speed
        from iterref.hub import device_of, precision

        plan = speed.QUICK if quick else speed.Plan()
        plan = replace(plan, **{name: value for name in ("rows", "repeats") if (value := options.pop(name))})
        device = options["device"]
        device_of(device)
        options["dtype"] = options["dtype"] or ("float32" if device == "cpu" else "bfloat16")
        precision(options["dtype"])
        judge, lengths = options.pop("reward"), options.pop("lengths") or (None,)
        named = [shapes.Case(name, length, judge=judge, **options) for name in cases for length in lengths]
        torch.set_num_threads(threads)
        measured = []
        for case in named or shapes.usual(device):
            click.echo(f"timing {case.name} ({case.judge})", err=True)
            measured.append(speed.measure(case, plan))
        drawn = speed.draws(torch.device(device), 1 if quick else plan.repeats)
        if as_json is not None:
            found = {"cases": measured, "draws": drawn, "torch": torch.__version__}
            Path(as_json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        draws = {"case": "5 draws of", "positions": " x ".join(map(str, speed.DRAWN)), **drawn}
        click.echo(speed.table([*measured, draws]))


@main.command()
@click.argument("model")
@click.argument("file", type=click.File("r", encoding="utf-8"), required=False)
@click.option("--length", type=click.IntRange(min=1), help="Positions of a canvas; the model's own unless given.")
@click.option("--tokenizer", help="A folder or hub name with tokenizer.json.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--tolerance", type=float, default=1e-4, show_default=True, help="Half precision needs about 1e-2.")
@click.pass_context
def check(context: click.Context, model: str, file: IO[str] | None, tolerance: float, **options: Any) -> None:
    """Whether MODEL keeps this library's conventions. FILE holds texts that it might have written, one a line, or JSON
    lines with `document` (the prompt) and `summary` (the text). Exit code 1 if something fails."""
    with doors():
        from iterref.check import check_model, table
        from iterref.loading import load

        read, columns = (None, {}) if file is None else read_prompts(file)
        texts = columns.get("summary", read)
        prompts = read if "summary" in columns else None
        findings = check_model(load(model, **options), texts, prompts, tolerance=tolerance)
        click.echo(table(findings))
    if any(finding.passed is False for finding in findings):
        context.exit(1)


@main.command("ls")
def list_all() -> None:
    """Methods with their options, models and rewards."""
    click.echo("methods")
    for name, method in methods().items():
        written = ", ".join(f"{option}={default}" for option, default in method.options)
        click.echo(f"  {name}\n{click.wrap_text(method.summary, 110, ' ' * 6, ' ' * 6)}")
        click.echo(click.wrap_text(written, 110, " " * 6, " " * 6))
    for title, entries in (("models", MODELS), ("rewards", REWARDS)):
        click.echo(f"\n{title}")
        for name, text in entries.items():
            click.echo(f"  {name:<14}{text}")


def read_prompts(file: IO[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Prompts, and the further fields of JSON input as columns. Raises `ValueError` naming the line."""
    try:
        lines = file.read().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"the input is not UTF-8 text ({error.reason}): convert it") from error
    if not lines:
        raise ValueError("the input is empty: give one prompt a line")
    empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if empty:
        raise ValueError(f"line {empty[0]} is empty: give every line a prompt, or take the line out")
    if not lines[0].lstrip().startswith("{"):
        return lines, {}
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is no JSON ({error.msg}): give one object a line") from error
        if not isinstance(entry, dict) or not isinstance(entry.get("document"), str):
            raise ValueError(f"line {number} has no text in a field `document`: add it")
        entries.append(entry)
    shared = sorted(set.intersection(*(set(entry) for entry in entries)) - {"document"})
    return [entry["document"] for entry in entries], {name: [entry[name] for entry in entries] for name in shared}


def read_budget(text: str) -> Any:
    """A budget a sample from "256", "256,1024" (denoiser and reward rows), or "total=512,price=0.1,depth=64"."""
    from iterref.budget import Budget

    names = ("denoiser", "reward", "total", "price", "depth")
    bounds: dict[str, float] = {}
    for place, part in enumerate(text.split(",")):
        name, equals, value = part.partition("=")
        name, value = (name.strip(), value) if equals else (names[min(place, 2)], name)
        try:
            bounds[name] = float(value) if name in names and (equals or place < 2) else bounds[""]
        except (ValueError, KeyError):
            raise ValueError(
                f"the budget {text!r} cannot be read: write DENOISER or DENOISER,REWARD, or name the bounds, as in "
                "total=512,depth=64"
            ) from None
    return Budget(**bounds)


def read_budgets(text: str | None) -> tuple[int, ...]:
    """Budgets in plain runs from "1,2,4"; none from None."""
    parts = [] if text is None else text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"the budgets {text!r} cannot be read: write whole numbers of plain runs, as in 1,2,4")
    return tuple(map(int, parts))


def read_reward(text: str, columns: dict[str, list[Any]]) -> Any:
    """A reward from its name. Raises `ValueError` for one that is not there, or input that lacks what it needs."""
    name, _, option = text.partition(":")
    if name.endswith(".py"):
        return user_function(Path(name), option)
    if name == "consensus":
        from iterref.drafts import OwnDrafts

        count = option.removeprefix("n=") or "16"
        if not count.isdigit():
            raise ValueError(f"the reward {text!r} cannot be read: write consensus or consensus:n=8")
        return OwnDrafts(n=int(count))
    if name == "length":
        if option and not (option.isdigit() and int(option)):
            raise ValueError(f"the reward {text!r} cannot be read: write length or length:12")
        return near_length(int(option or "8"))
    if name == "rouge" and not option:
        from iterref.rewards import Rouge

        field = next((name for name in ("reference", "summary") if name in columns), None)
        if field is None:
            raise ValueError("the reward rouge needs JSON input whose every line has a field `reference`: add it")
        return Rouge(references=field)
    if name == "classifier":
        from iterref.rewards import Classifier

        folder, colon, label = (option or "sentiment:positive").rpartition(":")
        if not colon:
            raise ValueError(f"the reward {text!r} names no label: write classifier:FOLDER:LABEL")
        return Classifier(folder, int(label) if label.isdigit() else label)
    if name == "perplexity":
        from iterref.rewards import Perplexity

        return Perplexity(option or "prose")
    from rapidfuzz.process import extractOne

    nearest = extractOne(name, list(REWARDS)[:-1])
    raise ValueError(f"unknown reward {text!r}: did you mean {nearest[0]!r}? The rewards are {', '.join(REWARDS)}")


def near_length(words: int) -> Callable[[list[str]], list[float]]:
    """r(x) = 1 - |number of words - `words`| / `words`."""

    def length(completions: list[str]) -> list[float]:
        return [1 - abs(len(text.split()) - words) / words for text in completions]

    return length


def user_function(file: Path, name: str) -> Callable[..., Any]:
    """The function `name` of a Python file of the user's own, which is run to get it."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"there is no file {file}: give the reward as FILE.py:NAME")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{file} cannot be run ({type(error).__name__}: {error}): mend it") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{file} has no function {name!r}: give the reward as FILE.py:NAME")
    return function


def write_texts(prompts: list[str], result: Any, as_json: bool) -> None:
    """One text a line, or one JSON object a line; a row without any finished text is empty, or null."""
    cost = {"denoiser": result.cost.denoiser, "reward": result.cost.reward, "depth": result.cost.depth}
    for prompt, text, reward in zip(prompts, result.texts, result.rewards.tolist(), strict=True):
        seen = result.finished or reward > float("-inf")
        if as_json:
            number = reward if reward > float("-inf") else None
            entry = {"document": prompt, "text": text if seen else None, "reward": number, "cost": cost}
            click.echo(json.dumps(entry, ensure_ascii=False))
        else:
            click.echo(text.replace("\n", " ") if seen else "")
