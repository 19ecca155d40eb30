"""What a page tells, in a real browser: two runs at equal NFE, verdicts in words, dimmed tokens, exports, notebooks."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from iterref.lengths import ends_of
from iterref.report import notebook, page, read_document
from tests.support.browser import CONTRAST
from tests.support.pages import INF, REWARD, run, runs_of
from tests.support.textual import DOCUMENTS, made

METHOD = "iterref:steps=2,moves=12,tries=2,decisions=2"


@pytest.fixture(scope="module")
def both():
    return made(), made(sampler="iterref", budget=20)


def proposals(tab: Any) -> list[list[str]]:
    """The cells of all proposals of the first text at every step, behind the number of the step."""
    found = []
    tab.locator("#step").focus()
    tab.keyboard.press("Home")
    tab.locator(".moves summary").first.click()
    tab.locator("#step").focus()
    for k in range(int(tab.locator("#step").get_attribute("max")) + 1):
        lines = tab.locator(".moves").first.locator("tbody tr:has(td.verdict)").all()
        found += [[str(k), *line.locator("td").all_inner_texts()] for line in lines]
        tab.keyboard.press("ArrowRight")
    return found


def test_every_proposal_has_a_verdict_in_words(visit):
    result = run(METHOD, watch=(1,), seed=2)
    told = proposals(visit(page(result, "abc".__getitem__)))
    known = (
        r"\u2713 (accepted(, the same text)?(, a chance of \d+%)?|chosen, without a test)"
        r"(, kept as the best so far)?",
        r"\u2717 rejected: (its reward is \d+\.\d{4} lower, and )?the chance of accepting it was (\d+|under 1)%",
        r"\u00b7 not chosen: another was (accepted|tested|taken)(, kept as the best so far)?",
    )
    words = [re.sub(r" \u00d7\d+$", "", one) for _, one, *_ in told]
    assert all(any(re.fullmatch(form, one) for form in known) for one in words), words
    for form in (*known, r".*a chance of.*", r".*lower, and.*", r".*kept as the best so far"):
        assert any(re.fullmatch(form, one) for one in words), form
    best = -INF
    for k, word, reward, *_ in told:  # what is kept as the best is above all before it
        if "kept as the best" in word:
            assert float(reward) > best and float(reward) == pytest.approx(float(result.trace.steps[int(k)]["best"][1]))
            best = float(reward)


def test_a_forbidden_proposal_says_so_and_a_weighed_one_too(visit):
    def forbids(tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.where(tokens[:, 0] == 0, -INF, REWARD(tokens, rows))

    told = proposals(visit(page(run(METHOD, watch=(0,), reward=forbids))))
    lost = {word for _, word, reward, *_ in told if reward == "forbidden"}
    assert lost and all(word.startswith("\u2717 rejected: the reward forbids it") for word in lost)
    weighed = {
        re.sub(r" \u00d7\d+$", "", word)
        for _, word, *_ in proposals(visit(page(run("smc:steps=3,particles=4", watch=(0,)))))
    }
    assert "\u00b7 weighed by its reward, without a test" in weighed
    kept = proposals(visit(page(run("best_of_n:steps=2,n=3", watch=(0,)))))
    assert any(word.startswith("\u00b7 kept as the best so far") for _, word, *_ in kept)


def test_tokens_behind_the_end_are_dimmed(visit, both):
    result = both[0]
    tab = visit(page(result))
    tab.locator("#step").focus()
    tab.keyboard.press("End")
    ends = set(ends_of(result.show).tolist())
    shown = tab.eval_on_selector_all(
        ".panel > .tokens", "all => all.map(one => [...one.querySelectorAll('.token')].map(t => "
        "[Number(t.dataset.token), t.classList.contains('past'), getComputedStyle(t).color]))"
    )  # fmt: skip
    for row in shown:
        end = next(at for at, (token, _, _) in enumerate(row) if token in ends)
        assert [past for _, past, _ in row] == [at > end for at in range(len(row))] and end < len(row) - 1
        assert row[end + 1][2] != row[0][2]
    assert "behind the end of the text" in tab.locator(".legend").text_content()
    assert "past" not in page(run(METHOD, watch=(0,))).split("</style>")[1].split("<script")[0]  # knows no end


def test_two_runs_move_together_at_equal_nfe(visit, both):
    tab = visit(page(both[0], beside=both[1]), width=1280)
    spent = [result.trace.table()["nfe"].tolist() for result in both]
    places = sorted({*spent[0], *spent[1]})
    assert int(tab.locator("#step").get_attribute("max")) == len(places) - 1
    tab.locator("#step").focus()
    for nfe in places:
        at = [max((k for k, one in enumerate(own) if one <= nfe), default=0) for own in spent]
        counts = [f"{name} at step {k + 1} of {len(own)}" for name, k, own in zip("AB", at, spent, strict=True)]
        assert tab.locator("#at").text_content() == f"{nfe:g} NFE: {', '.join(counts)}"
        for number, (result, k) in enumerate(zip(both, at, strict=True)):
            state = result.trace.table()["watched"][k, 0].tolist()
            found = tab.eval_on_selector_all(
                f'.panel[data-run="{number}"][data-place="0"] > .tokens .token',
                "all => all.map(t => Number(t.dataset.token))",
            )
            assert found == state
        tab.keyboard.press("ArrowRight")
    boxes = [panel.bounding_box() for panel in tab.locator(".panel").all()[:2]]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    narrow = visit(page(both[0], beside=both[1]), width=400)
    boxes = [panel.bounding_box() for panel in narrow.locator(".panel").all()[:2]]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_all_can_be_read_without_scrolling_sideways(visit, both, scheme, width, tmp_path):
    """With a prompt of markup, emoji and Hebrew, on a phone and a desk, of one run and two, in both schemes."""
    for text in (page(both[0]), page(both[0], beside=both[1])):
        tab = visit(text, scheme, width)
        tab.locator("#step").focus()
        for _ in range(20):
            tab.keyboard.press("ArrowRight")
        for summary in tab.locator("summary").all():
            summary.click()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert min(value for value, _ in tab.evaluate(CONTRAST)) >= 4.5
        assert DOCUMENTS[1][:40] in tab.locator("details.prompt p").first.text_content()
        assert tab.locator("img").count() == 0 and tab.locator("b").count() == 0
        tab.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)


def saved(tab: Any, kind: str) -> tuple[str, str]:
    with tab.expect_download() as found:
        tab.locator(f'[data-export="{kind}"]').click()
    return found.value.suggested_filename, Path(found.value.path()).read_bytes().decode("utf-8")


def test_what_is_shown_can_be_exported(visit, both, tmp_path):
    result = both[0]
    tab = visit(page(result))
    name, text = saved(tab, "json")
    assert name == "iterref-run.json" and json.loads(text)["runs"] == runs_of(page(result))
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_document(tmp_path / name) == runs_of(page(result))[0]
    name, text = saved(tab, "csv")
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert name == "iterref-run.csv" and [line["prompt"] for line in lines] == DOCUMENTS
    assert [line["text"] for line in lines] == result.texts and [line["chosen"] for line in lines] == [*result.chosen]
    assert [float(line["reward"]) for line in lines] == pytest.approx(result.rewards.tolist(), rel=1e-6)
    tab.locator("#step").focus()
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    name, text = saved(tab, "txt")
    assert name == "iterref-run.txt" and all(words in text for words in (*result.texts, *DOCUMENTS, "seed: 0"))
    state = tab.eval_on_selector_all(".panel > .tokens", "all => all[0].textContent")
    shown = text.split("row 0 at step 4 of ")[1].split("\n")[1]
    assert shown and state.startswith(shown)
    lines = list(csv.DictReader(io.StringIO(saved(visit(page(result, beside=both[1])), "csv")[1], newline="")))
    assert [line["run"] for line in lines] == ["A", "A", "B", "B"] and lines[2]["chosen"] == ""


def test_a_page_without_steps_has_its_exports(visit):
    tab = visit(page(run(decode=lambda tokens: ['one,"two"\n=3'] * len(tokens))))
    assert next(csv.DictReader(io.StringIO(saved(tab, "csv")[1], newline="")))["text"] == 'one,"two"\n=3'


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_notebook_s_frame_has_its_slider_and_exports(visit, both, scheme):
    """In a notebook of either scheme, whose own style reaches neither the frame nor is reached by it."""
    ground, ink = ("#fff", "#000") if scheme == "light" else ("#111", "#eee")
    tab = visit(f"<!DOCTYPE html><body style='background: {ground}; color: {ink}'>{notebook(both[0])}", scheme)
    frame = tab.frame_locator("iframe")
    frame.locator("#step").focus()
    tab.keyboard.press("ArrowRight")
    assert frame.locator("#step").input_value() == "1"
    inner = next(one for one in tab.frames if one.parent_frame is not None)
    assert min(value for value, _ in inner.evaluate(CONTRAST)) >= 4.5
    with tab.expect_download() as found:
        frame.locator('[data-export="csv"]').click()
    assert found.value.suggested_filename == "iterref-run.csv"
    tab.locator("summary").first.click()
    assert both[0].texts[0] in tab.locator("table").first.text_content()
