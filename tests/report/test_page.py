"""The page: it stands alone, holds exactly the trace, and lets no text become markup; and the rows as JSON lines.

tests/report/test_page_browser.py looks at it with a browser.
"""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch
from torch import Tensor

from iterref.report import page, table
from iterref.report.chart import Line, chart, ticks
from iterref.report.html import _hash, _part
from iterref.report.trace_view import SERIES
from iterref.rewards.base import RewardError
from tests.support.disk import expect_whole
from tests.support.pages import EVIL, INF, MASK, REWARD, Reader, data_of, run, whole, words


def numbers(values: object) -> object:
    """What JSON holds of a tensor's list: NaN as None, -inf by its name, seven digits of the rest."""
    if isinstance(values, list):
        return [numbers(value) for value in values]
    return None if math.isnan(values) else "-inf" if values == -INF else float(f"{values:.7g}")


PAGES = {
    "watched": lambda: page(run(watch=(2, 0), decode=words), "abc".__getitem__),
    "ids": lambda: page(run(watch=(1,))),
    "uniform": lambda: page(run(watch=(1,), noise="uniform")),
    "unwatched": lambda: page(run(decode=words)),
    "undecided": lambda: page(run("ancestral:steps=3", watch=(0,))),
}


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_stands_alone(kind):
    """No tag of a page loads anything, its policy would let none do so, and it allows the scripts and styles it has."""
    text = PAGES[kind]()
    reader = Reader(text)
    assert reader.open == [] and text.startswith("<!DOCTYPE html>")
    loading = {"src", "href", "srcset", "action", "data", "poster", "style", "background", "xlink:href"}
    for tag, attributes in reader.tags:
        assert not loading & set(attributes) and not any(name.startswith("on") for name in attributes), tag
    assert not {"img", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in reader.tags}
    assert "://" not in text and "url(" not in text and "@import" not in text
    policy = next(meta["content"] for meta in reader.of("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    styles, scripts = (re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("style", "script"))
    assert len(styles) == len(scripts) == 1
    assert all(_hash(part) in policy for part in (*styles, *scripts))


def test_every_control_and_picture_has_a_name():
    reader = Reader(PAGES["watched"]())
    labelled = {label.get("for") for label in reader.of("label")}
    assert "step" in labelled and len(reader.of("label")) == 3
    assert all(svg.get("aria-hidden") == "true" or svg["aria-label"] for svg in reader.of("svg"))
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in reader.tags:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name, ids[0]) in ids
    assert {heading.get("scope") for heading in reader.of("th")} == {"row", "col"}
    assert reader.of("html") == [{"lang": "en"}]
    assert "prefers-color-scheme: dark" in _part("page.css")


def test_every_id_and_class_that_the_script_reads_is_there():
    script, text = _part("page.js"), PAGES["watched"]()
    for name in re.findall(r'getElementById\("([\w-]+)"\)', script):
        assert f'id="{name}"' in text
    for name in re.findall(r'querySelector(?:All)?\("(?:\w+)?\.([\w-]+)"\)', script):
        assert re.search(rf'class="[^"]*\b{name}\b', text)
    assert "</script" not in script.lower() and "innerHTML" not in script


def test_the_data_are_the_trace():
    result = run(watch=(2, 0), decode=words)
    data, steps = data_of(page(result, "abc".__getitem__)), result.trace.table()
    assert data["watch"] == [2, 0] and data["mask"] == result.mask == MASK
    assert data["names"] == {"0": "a", "1": "b", "2": "c"}
    assert whole(data["states"]) == steps["watched"].tolist() and whole(data["clean"]) == steps["clean"].tolist()
    for name in ("t", "nfe", "reward_calls"):
        assert data[name] == numbers(steps[name].tolist())
    for name in SERIES:
        assert data[name] == numbers(steps[name][:, [2, 0]].tolist())
    assert (
        data["before"]["reward"][1:] == data["reward"][:-1] and data["step"] == list(range(1, 8)) and data["all"] == 7
    )
    assert data["changed"][0] == [None, None] and any(MASK in row for row in data["states"]["first"])


def test_the_slider_has_a_place_for_every_step():
    result = run(watch=(1,))
    reader = Reader(page(result))
    slider = next(tag for tag in reader.of("input") if tag["type"] == "range")
    assert (slider["min"], slider["max"], slider["step"]) == ("0", str(len(result.trace.steps) - 1), "1")
    assert len(result.trace.steps) == 7
    charts = [svg for svg in reader.of("svg") if svg.get("class") == "chart"]
    assert [svg["data-axis"] for svg in charts] == ["NFE a text", "reward calls a text", "NFE a text"]
    assert all(len(svg["data-values"].split()) == len(svg["data-places"].split()) == 2 for svg in charts)
    assert sum(section.get("class") == "row" for section in reader.of("section")) == 1


def test_without_names_the_ids_are_shown():
    result = run(watch=(1,))
    text = page(result)
    assert data_of(text)["names"] is None
    assert " ".join(map(str, result.tokens[0].tolist())) in text
    named = page(result, "xyz".__getitem__)
    assert "".join("xyz"[token] for token in result.tokens[0].tolist()) in named


def test_uniform_noise_has_no_mask():
    text = PAGES["uniform"]()
    assert data_of(text)["mask"] is None and run(noise="uniform").mask is None and "> masked<" not in text


def test_no_text_becomes_markup():
    result = run(watch=(0,), decode=lambda tokens: [EVIL] * len(tokens))
    text = page(result, lambda token: f"{token}{EVIL}")
    plain = Reader(page(run(watch=(0,), decode=words), "abc".__getitem__))
    reader = Reader(text)
    assert [tag for tag, _ in reader.tags] == [tag for tag, _ in plain.tags]
    assert "<img" not in text and text.count("</script>") == 2 and "<!--" not in text
    assert reader.inside["td"].count(EVIL) == 4
    named = data_of(text)["names"]
    assert len(named) > 1 and all(name == f"{token}{EVIL}" for token, name in named.items())
    for part in (table(result), result._repr_html_()):
        assert "<img" not in part and unescape(part).count(EVIL) == 4


def test_a_run_without_watched_rows_says_how_to_watch_them():
    result = run(decode=words)
    text = page(result)
    assert "No text was watched" in text and "watch=[0]" in text and 'type="range"' not in text
    assert text.count('class="chart"') == 3 and all(f">{words}</td>" in text for words in result.texts)
    assert all(f"{value:.4f}" in text for value in result.rewards.tolist())


def test_a_method_that_decides_nothing_has_no_chart_of_acceptance():
    text = PAGES["undecided"]()
    assert 'aria-label="Acceptance' not in text and "mean reward" in text and data_of(text)["accepted"] == [[None]] * 3


def test_a_run_that_broke_off_has_a_page():
    def broken(tokens: Tensor, rows: Tensor) -> Tensor:
        raise OSError("the judge hung up")

    with pytest.raises(RewardError) as caught:
        run("best_of_n:steps=2,n=2", watch=(0,), reward=broken)
    partial = caught.value.partial
    text = page(partial)
    assert "the run ended early" in text and text.count(">none yet</td>") == 8
    partial.trace.steps.clear()
    assert "broke off before its first step" in page(partial)


def forbids_first(tokens: Tensor, rows: Tensor) -> Tensor:
    return torch.where(rows == 0, -INF, REWARD(tokens, rows))


def test_forbidden_texts_are_named_so_and_left_out_of_the_means():
    result = run(watch=(0, 1), reward=forbids_first)
    text = page(result)
    assert "row 0: some step found only forbidden" in text and re.search(
        ">forbidden</td><td[^>]*>none allowed</td>", text
    )
    data = data_of(text)
    assert data["reward"][-1][0] == "-inf" and math.isfinite(data["reward"][-1][1])
    assert not re.search(
        r"\bnan\b|\binf\b", re.sub(r'"-inf"', "", text.split("<main>")[1].split("<script")[0].replace("-inf", ""))
    )
    said = re.search(r'aria-label="Reward against NFE a text: reward from \S+ to ([-\d.]+);', text)
    assert said and float(said[1]) == pytest.approx(float(result.rewards[1:].mean()), rel=1e-3)


def test_the_page_is_saved(tmp_path):
    result = run(watch=(0,), decode=lambda tokens: ["zwölf \u2028 日本"] * len(tokens))
    result.save_html(tmp_path / "trace.html", "aéß".__getitem__)
    assert (tmp_path / "trace.html").read_text(encoding="utf-8") == page(result, "aéß".__getitem__)


@pytest.mark.parametrize("name", ["to_jsonl", "save_html"])
def test_a_result_is_saved_whole_or_not_at_all(tmp_path, name):
    result = run(decode=words)
    expect_whole(getattr(result, name), getattr(replace(result, texts=["another"] * 4), name), tmp_path)


def test_a_table_is_cut_and_says_so():
    result = run()
    assert "and 3 more texts" in table(result, most=1) and "more" not in table(result, most=4)
    assert table(result).count("<tr>") == 5


@pytest.mark.parametrize("decode", [None, words])
def test_rows_survive_json_lines(tmp_path, decode):
    result = run(decode=decode, reward=forbids_first)
    result.to_jsonl(tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    name, values = ("tokens", result.tokens.tolist()) if decode is None else ("text", result.texts)
    assert [set(row) for row in rows] == [{"row", name, "reward", "best", "asked"}] * 4
    assert [row["row"] for row in rows] == [0, 1, 2, 3] and [row[name] for row in rows] == values
    assert rows[0]["reward"] is None and rows[0]["best"] is None
    assert [row["reward"] for row in rows[1:]] == result.rewards[1:].tolist()
    assert [row["best"] for row in rows[1:]] == result.best.reward[1:].tolist()
    assert rows[2]["asked"] == vars(result.asked)


def test_rows_become_a_data_frame():
    result = run(decode=words, reward=forbids_first)
    frame = result.to_pandas()
    assert list(frame) == ["row", "text", "reward", "best", "asked_nfe", "asked_reward_calls", "asked_depth"]
    assert frame["text"].tolist() == result.texts and frame["reward"].tolist() == result.rewards.tolist()
    assert set(frame["asked_nfe"]) == {result.asked.nfe} and frame["reward"][0] == -INF
    assert replace(result, texts=None).to_pandas()["tokens"].tolist() == result.tokens.tolist()


def test_without_pandas_a_data_frame_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    told = r"needs pandas: pip install .iterref\[data\]., or write the rows with to_jsonl"
    with pytest.raises(ImportError, match=told):
        run().to_pandas()


@pytest.mark.parametrize(
    "low, high, most, expected",
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1, 7, 8, [1, 2, 3, 4, 5, 6, 7]),
        (-0.31, 0.29, 5, [-0.2, 0, 0.2]),
        (1, 960, 8, [200, 400, 600, 800]),
        (2e-5, 6e-5, 4, [2e-5, 3e-5, 4e-5, 5e-5, 6e-5]),
    ],
)
def test_ticks_are_round_numbers(low, high, most, expected):
    assert ticks(low, high, most) == pytest.approx(expected) and len(ticks(low, high, most)) <= most + 1


def test_a_chart_breaks_where_there_is_no_value():
    def line(name, x, y, looks="s0"):
        return Line(name, 0, x, y, looks)

    some = [1, 2, 3, 4, 5]
    both = [line("a", some, [0.0, 1.0, None, 2.0, None]), line("b", some, [None] * 5, "s1 dash")]
    drawn = chart(both, "A & B", None, "<rows>")
    lines = re.findall(r'<polyline class="line s0" points="([^"]*)"', drawn)
    assert [len(line.split()) for line in lines] == [2, 1] and drawn.count("<circle") == 1
    assert 's1 dash" points' not in drawn
    assert "A &amp; B against &lt;rows&gt;: a from 0 to 2; b without a value" in drawn
    assert ">&lt;rows&gt;</text>" in drawn
    heights = [float(point.split(",")[1]) for line in lines for point in line.split()]
    assert heights == sorted(heights, reverse=True) and heights[0] > heights[-1]
    assert chart([line("a", [1, 2], [None, None])], "A", None, "rows") == ""
    assert (
        chart([line("a", [3], [5.0])], "A", None, "rows").count("<circle") == 1
    )  # one value: the axes still have a length


def test_package_data_are_beside_the_code():
    import iterref.report

    assert {"page.css", "page.js"} <= {file.name for file in Path(iterref.report.__file__).parent.iterdir()}
