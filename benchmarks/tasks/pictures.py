"""Pictures of README.md and docs/results.md, from small runs, and of the page of a run where there is a browser.

    python -m benchmarks pictures --out docs/pictures          a minute of one core, the same numbers every time

The runs are of an exact Markov world (24 masked tokens of 8 kinds, alpha = 0.5, 128 samples) and of a sentence on the
bundled model.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import torch
from PIL import Image

from benchmarks.frame.command import OUT
from iterref import OwnDrafts, Problem, generate, load, sample, sampler_from_string
from iterref.exact.markov import world
from iterref.report import plots

ROWS, LENGTH = 128, 24
BUDGETS = (16, 32, 64, 128)
METHODS = {  # SMC as it has the most reward of as many reward calls
    "iterref": "iterref", "SMC, 8 clean samples": "smc:x0_samples=8,potential=sum", "best of N": "best_of_n",
    "plain sampling": "ancestral",
}  # fmt: skip
SENTENCE = (
    "A lorry carrying nine tonnes of fresh oranges overturned on the coast road near Penmoor early on Friday, blocking "
    "traffic in both directions."
)


def first_picture(points: Mapping[str, Sequence[plots.Point]], exact: float, file: Path) -> None:
    """One line a method, below the exact mean; the title says from which NFE on `iterref` has what no other reaches."""
    best = max(line[-1].reward for name, line in points.items() if name != "iterref")
    reached = next(budget for budget, point in zip(BUDGETS, points["iterref"], strict=True) if point.reward > best)
    title = f"an exact world: iterref with {reached} evaluations has more reward than the others with {BUDGETS[-1]}"
    panel = plots.Panel(points, "mean reward", {"exact": exact}, title)
    plots.panels([panel], file, "evaluations of the network, up to 8 reward calls to each")


def world_pictures(out: Path) -> None:
    """The five kinds of picture, of one world."""
    model, reward, tilted = world(LENGTH, 8)
    problem = Problem(model, reward, torch.zeros(ROWS, LENGTH), alpha=0.5)
    runs = {
        name: [sample(sampler_from_string(text), problem, budget=(budget, 8 * budget)) for budget in BUDGETS]
        for name, text in METHODS.items()
    }
    points = {name: [plots.point(run) for run in line] for name, line in runs.items()}
    first_picture(points, tilted.mean_reward(), out / "first.png")
    plots.reward_against_budget(points, out / "budget.png", "128 samples, means and 95 % intervals")
    plots.acceptance(sample(sampler_from_string("iterref:adapt=true,moves=48"), problem).trace, out / "acceptance.png",
                     "iterref, every chain adapting its span")  # fmt: skip
    cloud = "particles=16,steps=16,threshold=0.5"
    traces = {
        name: sample(sampler_from_string(f"smc:{cloud},{option}"), problem).trace
        for name, option in {"one x_0 sample a particle": "x0_samples=1", "the best of 8": "x0_samples=8"}.items()
    }
    plots.effective(traces, out / "particles.png", 16, "SMC, resampling below one half")
    kinds = {"one decision a move": "decisions=1", "eight": "decisions=8"}
    tries = {
        name: {n: sample(sampler_from_string(f"iterref:moves=24,tries={n},{kind}"), problem) for n in (1, 2, 4, 8, 16)}
        for name, kind in kinds.items()
    }
    plots.effect(tries, out / "tries.png", "candidates N of a decision", "24 moves")
    moves = {
        name: {n: sample(sampler_from_string(f"iterref:moves={n},tries=2,{kind}"), problem) for n in (4, 8, 16, 32, 64)}
        for name, kind in kinds.items()
    }
    plots.effect(moves, out / "moves.png", "moves", "two candidates a decision")


def page_picture(out: Path, browser: str) -> None:
    """The page of a run of the bundled model at one of its steps, the proposals open."""
    from playwright.sync_api import sync_playwright

    model = load("tiny-news")
    result = generate(
        model, [SENTENCE], reward=OwnDrafts(n=16, steps=8, temperature=1.0), start="drafts", budget=160, alpha=0.01,
        temperature=0.8, watch=[0], sampler="iterref:decisions=2,tries=4,objective=maximise",
    )  # fmt: skip
    rounds, clean = result.trace.rounds, result.trace.table()["clean"][:, 0]
    step = max(range(1, len(rounds)), key=lambda k: (int((clean[k] != clean[k - 1]).sum()), -k))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        file, shot = Path(folder) / "run.html", Path(folder) / "page.png"
        result.save_html(file, model)
        window = driver.chromium.launch(executable_path=browser, args=["--headless", "--no-sandbox", "--disable-gpu"])
        tab = window.new_page(viewport={"width": 860, "height": 900})
        tab.goto(file.as_uri())
        tab.locator("#step").fill(str(step))
        tab.locator(".moves summary").click()
        tab.locator("table.proposals").wait_for()
        tab.locator("section[aria-labelledby=steps]").screenshot(path=shot)
        window.close()
        Image.open(shot).convert("RGB").quantize(48).save(out / "page.png", optimize=True)


@click.command("pictures", help=__doc__.partition("\n")[0])
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=OUT / "pictures", show_default=True)
def command(out: Path) -> None:
    """Writes all pictures to a folder."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    world_pictures(out)
    browser = shutil.which("chromium")
    if browser is not None:
        page_picture(out, browser)
    for file in sorted(out.glob("*.png")):  # no more than 128 colours, which no picture here needs
        image = Image.open(file).convert("RGB")
        if file.name != "page.png":
            image.quantize(128).save(file, optimize=True)
        click.echo(f"{file}: {file.stat().st_size / 1000:.0f} kB")
