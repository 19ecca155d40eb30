"""The page in a real browser: its slider by keyboard and mouse, what it shows, its colours, and that it runs alone.

Debian's `chromium`, driven by Playwright; every test takes its pictures into its own temporary folder.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.models.digits import Digits
from iterref.decision import ACCEPTED, REFUSED
from iterref.exact.markov import world
from iterref.problem import Problem
from iterref.report import page
from iterref.result import Result
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support.pages import EVIL, MASK, run, words

CHROMIUM = shutil.which("chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run".split()
NAMES = ["<b>", " b&", "\n", "\u25a2"]  # of tokens 0, 1 and 2, and how the mask is shown
SHOWN = ["<b>", "b&", "\u21b5", "\u25a2"]
BLOCKS = "iterref:steps=3,moves=4,tries=3,early=0.5,decisions=2"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs the browser `chromium`, which is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page's text in a window of its own. Every error of its console, and every request beyond the file and the
    data in it, fails the test at its end."""
    contexts, wrong = [], []

    def opened(text: str, scheme: str = "light", width: int = 1000, errors: bool = False) -> Any:
        contexts.append(chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(20_000)
        if not errors:
            tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else 0)
            tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda request: wrong.append(request.url) if request.url[:5] not in ("file:", "data:") else 0)
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        tab.goto((tmp_path / "page.html").as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def tokens(tab: Any) -> list[list[list[str]]]:
    """The text and the classes of every token of every watched row."""
    return tab.eval_on_selector_all(
        "section.row > .tokens", "rows => rows.map(row => [...row.querySelectorAll('.token')]"
        ".map(token => [token.textContent, token.className, token.getAttribute('aria-label')]))"
    )  # fmt: skip


def said(tab: Any) -> str:
    return tab.locator("#step").get_attribute("aria-valuetext")


def step_of(tab: Any) -> int:
    return int(tab.locator("#step").input_value())


def test_the_slider_moves_by_keyboard(visit, tmp_path):
    """Every token at every step is the trace's, masks are boxes, and those that changed are marked so."""
    result = run(watch=(2, 0), decode=words)
    tab, steps = visit(page(result, NAMES.__getitem__)), result.trace.table()
    tab.locator("#step").focus()
    places, before = tab.locator("svg.chart").first.get_attribute("data-at").split(), None
    for k in range(7):
        states = steps["watched"][k].tolist()
        shown = tokens(tab)
        assert [[text for text, _, _ in row] for row in shown] == [[SHOWN[i] for i in row] for row in states]
        assert [[label == "mask" for _, _, label in row] for row in shown] == [[i == MASK for i in r] for r in states]
        changed = [["a0" in kind.split() for _, kind, _ in row] for row in shown]
        assert changed == [
            [before is not None and i != before[w][j] for j, i in enumerate(row)] for w, row in enumerate(states)
        ]
        assert said(tab).startswith(f"{k + 1} of 7, time {float(steps['t'][k]):.3f}, {k + 1} NFE, ")
        assert {line.get_attribute("x1") for line in tab.locator(".cursor").all()[::2]} == {places[k]}
        for w, row in enumerate((2, 0)):
            reward = float(steps["reward"][k, row])
            assert f"reward {reward:.4f}" in tab.locator(".figures").nth(w).text_content() or math.isnan(reward)
        before = states
        tab.keyboard.press("ArrowRight")
    assert step_of(tab) == 6
    for key, at in (("Home", 0), ("End", 6), ("ArrowLeft", 5)):
        tab.keyboard.press(key)
        assert step_of(tab) == at and said(tab).startswith(f"{at + 1} of 7")
    tab.locator("h1").click()  # away from the slider the arrow keys still move it
    tab.keyboard.press("ArrowLeft")
    assert step_of(tab) == 4
    tab.screenshot(path=tmp_path / "keyboard.png", full_page=True)


def test_the_slider_moves_by_mouse_and_the_clean_samples_are_shown(visit):
    result = run(watch=(2, 0), decode=words)
    tab, steps = visit(page(result, NAMES.__getitem__)), result.trace.table()
    box = tab.locator("#step").bounding_box()
    for share, at in ((0.99, 6), (0.5, 3), (0.01, 0)):
        tab.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        assert step_of(tab) == at and said(tab).startswith(f"{at + 1} of 7")
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.34 * box["width"], box["y"] + box["height"] / 2)
    tab.mouse.up()
    assert step_of(tab) == 2
    tab.get_by_label("the clean sample").check()
    clean, states = steps["clean"][2], steps["watched"][2]
    assert [[text for text, _, _ in row] for row in tokens(tab)] == [[SHOWN[i] for i in row] for row in clean]
    assert [["open" in kind.split() for _, kind, _ in row] for row in tokens(tab)] == (clean != states).tolist()


def test_play_goes_to_the_end_and_stops(visit):
    tab = visit(page(run("iterref:steps=1,moves=2,early=0", watch=(0,)), NAMES.__getitem__))
    button = tab.get_by_role("button", name="play")
    button.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("#play").text_content() == "pause"
    tab.locator("#play:text-is('play')").wait_for()
    assert step_of(tab) == 2 == int(tab.locator("#step").get_attribute("max"))


def folded(candidate: list[int]) -> str:
    """The names of tokens, a run of more than three equal ones at the end as the first of them and their number."""
    run = next((n for n, token in enumerate(reversed(candidate)) if token != candidate[-1]), len(candidate))
    kept = candidate[: len(candidate) - run + 1] if run > 3 else candidate
    return "".join(SHOWN[i] for i in kept) + (f"\u00d7{run}" if run > 3 else "")


def test_the_proposals_of_a_step(visit, tmp_path):
    """Opened by keyboard and by mouse, each decision lists its candidates, their rewards and what became of them."""
    result = run(BLOCKS, watch=(2, 0), decode=words)
    tab = visit(page(result, NAMES.__getitem__))
    first, second = tab.locator(".moves").all()
    assert first.get_attribute("open") is None and first.locator("tr").count() == 0
    tab.locator("#step").focus()
    tab.keyboard.press("End")
    first.locator("summary").focus()
    tab.keyboard.press("Enter")
    second.locator("summary").click()
    second.locator("table").wait_for()
    verdicts = {ACCEPTED: "\u2713 accepted", REFUSED: "\u2717 rejected", 0: "\u00b7 not chosen"}
    for k in range(len(result.trace.rounds) - 1, -1, -1):
        step = result.trace.rounds[k]
        for w, moves in enumerate((first, second)):
            assert moves.locator("tbody").count() == len(step)
            for d, one in enumerate(step):
                lines = moves.locator("tbody").nth(d).locator("tr:has(td)").all()
                found = []
                for kind, reward, _, text in (line.locator("td").all_inner_texts() for line in lines):
                    word, _, count = kind.partition(" \u00d7")
                    found += [(word, float(reward), re.sub(r"\s", "", text))] * int(count or 1)
                assert [reward for _, reward, _ in found] == sorted((r for _, r, _ in found), reverse=True)
                expected = [
                    (verdicts[int(verdict)], round(float(reward), 4), folded(candidate))
                    for candidate, reward, verdict in zip(
                        one.tokens[:, w].tolist(), one.rewards[:, w], one.verdicts[:, w], strict=True
                    )
                ]
                assert sorted(found) == sorted(expected)
            every = [int(verdict) for one in step for verdict in one.verdicts[:, w]]
            told = f"{every.count(ACCEPTED)} accepted, {every.count(REFUSED)} rejected"
            assert told in moves.locator("summary").text_content()
        tab.keyboard.press("ArrowLeft")
    tab.screenshot(path=tmp_path / "proposals.png", full_page=True)
    first.locator("summary").click()
    first.locator("tr").first.wait_for(state="detached")


# The contrast of every piece of text to whatever lies behind it, by the rule of the Web Content Accessibility
# Guidelines 2.1 (1.4.3), the least over the stripes where there are any.
CONTRAST = r"""() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parts = (text) => [...text.matchAll(/rgba?\(([^)]+)\)/g)].map((m) => m[1].split(/[ ,/]+/).map(Number));
  const opaque = (c) => c.length === 3 || c[3] === 1;
  const behind = (element) => {
    const found = [];
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      found.push(...parts(style.backgroundImage).filter(opaque));
      const colour = parts(style.backgroundColor)[0];
      if (opaque(colour)) return [...found, colour];
    }
    return [...found, [255, 255, 255]];
  };
  const out = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, noscript")) continue;
    const style = getComputedStyle(element);
    const ink = light(parts(element.closest("svg") ? style.fill : style.color)[0]);
    for (const ground of behind(element)) {
      const [low, high] = [ink, light(ground)].sort((a, b) => a - b);
      out.push([(high + 0.05) / (low + 0.05), element.getAttribute("class") ?? ""]);
    }
  }
  return out;
}"""


def contrasts(tab: Any) -> list[tuple[float, str]]:
    """All contrasts of a page's text at all of its steps, with the class of the text."""
    found = []
    tab.locator("#step").focus()
    tab.keyboard.press("Home")
    for _ in range(int(tab.locator("#step").get_attribute("max")) + 1):
        found += [(value, kind) for value, kind in tab.evaluate(CONTRAST)]
        tab.keyboard.press("ArrowRight")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(visit, scheme, tmp_path):
    result = run("iterref:steps=3,moves=12,tries=3,decisions=2,early=0.5", watch=(2,), decode=words)
    text = page(result, "abc".__getitem__)
    tab = visit(text, scheme)
    tab.locator(".moves summary").click()
    tab.locator("table.proposals").wait_for()
    found = contrasts(tab)
    kinds = {part for _, kind in found for part in kind.split()}
    assert {"a0", "a1", "a2", "a3", "a4", "mask", "note", "verdict", "key"} <= kinds
    assert min(found)[0] >= 4.5, min(found)
    tab.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    shade = float(np.asarray(Image.open(tmp_path / f"{scheme}.png").convert("L")).mean())
    assert shade > 200 if scheme == "light" else shade < 70
    if scheme == "dark":  # negative control: the light scheme's ink on the dark ground is found
        tab.evaluate("document.documentElement.style.setProperty('--soft', '#595959')")
        assert min(contrasts(tab))[0] < 4.5


def test_what_has_the_focus_is_seen(visit):
    tab = visit(page(run(BLOCKS, watch=(0,), decode=words), NAMES.__getitem__))
    seen, here = [], "(({tagName}, {outlineStyle}) => [tagName, outlineStyle])"
    for _ in range(4):
        tab.keyboard.press("Tab")
        seen.append(tab.evaluate(f"{here}(document.activeElement, getComputedStyle(document.activeElement))"))
    assert seen == [[tag, "solid"] for tag in ("BUTTON", "INPUT", "INPUT", "SUMMARY")]
    assert tab.get_by_role("slider", name="step").count() == 1 and tab.get_by_role("img", name="Reward").count() == 2
    tab.evaluate("document.activeElement.blur()")
    assert tab.evaluate("getComputedStyle(document.getElementById('step')).outlineStyle") == "none"


def test_a_narrow_window_needs_no_sideways_scrolling(visit, tmp_path):
    tab = visit(page(run(BLOCKS, watch=(2, 0), decode=words), NAMES.__getitem__), "dark", 400)
    tab.locator("#step").focus()
    tab.keyboard.press("End")
    for summary in tab.locator(".moves summary").all():
        summary.click()
    tab.locator("table.proposals").nth(1).wait_for()
    overlapping = """() => [...document.querySelectorAll('.proposals tbody tr')].some((line) => {
      const boxes = [...line.cells].map((cell) => cell.getBoundingClientRect());
      return boxes.some((a, i) => boxes.some((b, j) => i < j && a.left < b.right - 1 && b.left < a.right - 1
        && a.top < b.bottom - 1 && b.top < a.bottom - 1)); })"""
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400 and not tab.evaluate(overlapping)
    tab.screenshot(path=tmp_path / "narrow.png", full_page=True)
    tab.evaluate("document.querySelector('h1').style.width = '500px'")
    assert tab.evaluate("document.documentElement.scrollWidth") > 400  # negative control


def test_names_and_texts_make_no_markup(visit):
    result = run(BLOCKS, watch=(0,), decode=lambda tokens: [EVIL] * len(tokens))
    tab = visit(page(result, lambda token: f"{token}{EVIL}"))
    tab.locator("#step").focus()
    tab.keyboard.press("End")
    tab.locator(".moves summary").click()
    tab.locator("table.proposals").wait_for()
    assert tab.locator("img").count() == 0 and tab.locator("script").count() == 2
    assert EVIL.replace("\n", "") in tab.locator(".proposals").first.text_content()
    assert tokens(tab)[0][0][0].endswith(EVIL)


def test_no_other_script_runs(visit):
    text = page(run(watch=(0,), decode=words), "abc".__getitem__)
    planted = text.replace("</body>", "<script>document.title = 'planted'</script></body>")
    tab = visit(planted, errors=True)
    assert tab.evaluate("document.documentElement.className") == "live" and tab.title() != "planted"
    # Negative control: without the policy the planted script does run.
    assert visit(re.sub("<meta http-equiv[^>]*>", "", planted)).title() == "planted"


def digits_run(show: Any) -> Result:
    denoiser, canvas, free = Digits.load("masked").prepare([None] * 2)

    def ink(tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return tokens.double().mean(1)

    method = sampler_from_string("iterref:steps=3,moves=4,tries=2,decisions=2,early=0.5,span=0.3")
    return sample(method, Problem(denoiser, ink, canvas, free, alpha=0.5), watch=[1], show=show)


def test_digits_are_shown_as_pictures(visit, tmp_path):
    """Every pixel has its grey level, a masked one is hatched, and every proposal has its picture."""
    model = Digits.load("masked")
    result = digits_run(model)
    tab, steps = visit(page(result)), result.trace.table()
    tab.locator("#step").focus()
    for k in range(len(steps["t"])):
        shown = tab.eval_on_selector_all(
            "section.row > .tokens .token",
            "all => all.map(one => [getComputedStyle(one).backgroundColor, one.classList.contains('mask')])",
        )
        for (colour, hatched), token in zip(shown, steps["watched"][k, 0].tolist(), strict=True):
            grey = round(255 * (1 - token / 16))
            assert hatched if token == 17 else colour == f"rgb({grey}, {grey}, {grey})" and not hatched
        tab.keyboard.press("ArrowRight")
    assert tab.locator("section.row > .tokens").get_attribute("aria-label").startswith("picture of row 1")
    box = tab.locator("section.row > .tokens").bounding_box()
    assert box["width"] == pytest.approx(box["height"], abs=2) and box["width"] > 100
    tab.locator(".moves summary").click()
    tab.locator("table.proposals").wait_for()
    candidates = sum(len(one.rewards) for one in result.trace.rounds[-1])
    assert tab.locator(".proposals .tokens.small").count() == candidates
    assert tab.locator("td img").count() == 2 and tab.evaluate("document.images[1].naturalWidth") == 64
    tab.screenshot(path=tmp_path / "digits.png", full_page=True)


class Blurred:
    """A model whose pictures are no grid of its tokens."""

    def render(self, tokens: torch.Tensor) -> torch.Tensor:
        small = (tokens.clamp_max(16) / 16).view(-1, 1, 8, 8).expand(-1, 3, -1, -1)
        return torch.nn.functional.interpolate(small, scale_factor=4, mode="bilinear")


def test_drawn_pictures_are_shown_at_every_step(visit):
    result = digits_run(Blurred())
    tab, seen = visit(page(result)), []
    tab.locator("#step").focus()
    for _ in result.trace.steps:
        seen.append(tab.locator("img.drawn").get_attribute("src"))
        assert tab.locator("img.drawn").evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
        tab.keyboard.press("ArrowRight")
    states = result.trace.table()["watched"][:, 0]
    assert [a == b for a, b in zip(seen, seen[1:], strict=False)] == (states[1:] == states[:-1]).all(1).tolist()
    tab.locator(".moves summary").click()
    tab.locator("table.proposals").wait_for()
    assert tab.locator(".proposals th").first.text_content() == "verdict"
    assert tab.locator(".proposals td.text").count() == 0


def test_sixty_four_rows_stay_small_and_quick(visit):
    """A long run of many rows: a page of a few megabytes whose steps follow the keys."""
    model, reward, _ = world(64, 8, seed=1)
    problem = Problem(model, reward, torch.zeros(64, 64), alpha=0.5)
    result = sample(sampler_from_string("iterref:steps=4,moves=60,tries=16,decisions=1"), problem, watch=range(64))
    text = page(result, "abcdefgh".__getitem__)
    assert len(text) < 5_000_000
    tab = visit(text)
    assert tab.locator("section.row").count() == 64
    tab.locator("#step").focus()
    took = tab.evaluate("""() => { const slider = document.getElementById("step"), start = performance.now();
        for (let k = 0; k < 8; k++) { slider.value = k; slider.dispatchEvent(new Event("input")); }
        return (performance.now() - start) / 8; }""")
    assert took < 1000  # milliseconds a step
