"""The page in a real browser: its slider by keyboard and mouse, what it shows, its colours, and that it runs alone.

Debian's `chromium`, driven by Playwright; every test takes its pictures into its own temporary folder.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.models.digits import Digits
from iterref.decision import ACCEPTED, REFUSED
from iterref.exact.markov import world
from iterref.problem import Problem
from iterref.report import page
from iterref.result import Result
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support import pages
from tests.support.browser import CONTRAST
from tests.support.pages import EVIL, MASK, run

NAMES = ["<b>", " b&", "\n", "\u25a2"]  # of tokens 0, 1 and 2, and how the mask is shown
SHOWN = ["<b>", "b&", "\u21b5", "\u25a2"]
BLOCKS = "iterref:steps=3,moves=4,tries=3,early=0.5,decisions=2"


def tokens(tab: Any) -> list[list[list[str]]]:
    """The text and the classes of every token of every watched row."""
    return tab.eval_on_selector_all(
        "section.row .panel > .tokens", "rows => rows.map(row => [...row.querySelectorAll('.token')]"
        ".map(token => [token.textContent, token.className, token.getAttribute('aria-label')]))"
    )  # fmt: skip


def said(tab: Any) -> str:
    return tab.locator("#step").get_attribute("aria-valuetext")


def step_of(tab: Any) -> int:
    return int(tab.locator("#step").input_value())


def test_the_slider_moves_by_keyboard(visit, tmp_path):
    """Every token at every step is the trace's, masks are boxes, and those that changed are marked so."""
    result = run(watch=(2, 0), decode=pages.words)
    tab, steps = visit(page(result, NAMES.__getitem__)), result.trace.table()
    tab.locator("#step").focus()
    chart, before = tab.locator("svg.chart").first, None
    (low, high), (left, right) = (map(float, chart.get_attribute(f"data-{of}").split()) for of in ("values", "places"))
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
        at = left + (float(steps["nfe"][k]) - low) / (high - low) * (right - left)
        cursors = [float(line.get_attribute("x1")) for line in tab.locator(".cursor").all()]
        assert cursors[0] == cursors[2] == pytest.approx(at, abs=0.06) and len(cursors) == 3
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
    result = run(watch=(2, 0), decode=pages.words)
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
    result = run(BLOCKS, watch=(2, 0), decode=pages.words)
    tab = visit(page(result, NAMES.__getitem__))
    first, second = tab.locator(".moves").all()
    assert first.get_attribute("open") is None and first.locator("tr").count() == 0
    tab.locator("#step").focus()
    tab.keyboard.press("End")
    first.locator("summary").focus()
    tab.keyboard.press("Enter")
    second.locator("summary").click()
    second.locator("table").wait_for()
    words = {ACCEPTED: "\u2713 accepted", REFUSED: "\u2717 rejected", 0: "\u00b7 not chosen"}
    for k in range(len(result.trace.rounds) - 1, -1, -1):
        step = result.trace.rounds[k]
        for w, moves in enumerate((first, second)):
            assert moves.locator("tbody").count() == len(step)
            for d, one in enumerate(step):
                lines = moves.locator("tbody").nth(d).locator("tr:has(td)").all()
                found = []
                for kind, reward, _, text in (line.locator("td").all_inner_texts() for line in lines):
                    word, count = re.fullmatch(r"(.*?)(?: \u00d7(\d+))?", kind).groups()
                    word = word.replace("chosen, without", "accepted without")
                    word = next(known for known in words.values() if word.startswith(known))
                    found += [(word, float(reward), re.sub(r"\s", "", text))] * int(count or 1)
                assert [reward for _, reward, _ in found] == sorted((r for _, r, _ in found), reverse=True)
                expected = [
                    (words[int(verdict)], round(float(reward), 4), folded(candidate))
                    for candidate, reward, verdict in zip(
                        one.tokens[:, w].tolist(), one.rewards[:, w], one.verdicts[:, w], strict=True
                    )
                ]
                assert sorted(found) == sorted(expected)
            every = [int(verdict) for one in step for verdict in one.verdicts[:, w]]
            told = f"{every.count(ACCEPTED)} accepted, {every.count(REFUSED)} rejected" if k else "1 chosen"
            assert told in moves.locator("summary").text_content()
        tab.keyboard.press("ArrowLeft")
    tab.screenshot(path=tmp_path / "proposals.png", full_page=True)
    first.locator("summary").click()
    first.locator("tr").first.wait_for(state="detached")


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
    result = run("iterref:steps=3,moves=12,tries=3,decisions=2,early=0.5", watch=(2,), decode=pages.words)
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
    tab = visit(page(run(BLOCKS, watch=(0,), decode=pages.words), NAMES.__getitem__))
    seen, here = [], "(({tagName}, {outlineStyle}) => [tagName, outlineStyle])"
    for _ in range(8):
        tab.keyboard.press("Tab")
        seen.append(tab.evaluate(f"{here}(document.activeElement, getComputedStyle(document.activeElement))"))
    assert seen == [[tag, "solid"] for tag in (*["BUTTON"] * 3, "DIV", "BUTTON", "INPUT", "INPUT", "SUMMARY")]
    assert tab.get_by_role("slider", name="step").count() == 1 and tab.get_by_role("img", name="Reward").count() == 2
    tab.evaluate("document.activeElement.blur()")
    assert tab.evaluate("getComputedStyle(document.getElementById('step')).outlineStyle") == "none"


def test_a_narrow_window_needs_no_sideways_scrolling(visit, tmp_path):
    tab = visit(page(run(BLOCKS, watch=(2, 0), decode=pages.words), NAMES.__getitem__), "dark", 400)
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
    text = page(run(watch=(0,), decode=pages.words), "abc".__getitem__)
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
            "section.row .panel > .tokens .token",
            "all => all.map(one => [getComputedStyle(one).backgroundColor, one.classList.contains('mask')])",
        )
        for (colour, hatched), token in zip(shown, steps["watched"][k, 0].tolist(), strict=True):
            grey = round(255 * (1 - token / 16))
            assert hatched if token == 17 else colour == f"rgb({grey}, {grey}, {grey})" and not hatched
        tab.keyboard.press("ArrowRight")
    assert tab.locator("section.row .panel > .tokens").get_attribute("aria-label").startswith("picture of row 1")
    box = tab.locator("section.row .panel > .tokens").bounding_box()
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
