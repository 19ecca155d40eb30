"""What a page says of a run, two runs side by side, runs read from files, and what a notebook shows."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape

import pytest
import torch
from click.testing import CliRunner

import iterref
from iterref.cli import main
from iterref.report import document, notebook, page, page_of, read_document, table
from iterref.report.document import describe
from iterref.report.trace_view import Bounds
from iterref.result import Result
from iterref.rewards.algebra import weighted
from iterref.rewards.mixtures import reward_name
from iterref.rewards.strings import reward_from_string
from iterref.trace import SERIES, Round, Trace
from tests.support.pages import EVIL, Reader, run, runs_of, words
from tests.support.textual import DOCUMENTS, made, short


@pytest.fixture(scope="module")
def first():
    return made()


@pytest.fixture(scope="module")
def second():
    return made(sampler="iterref", alpha=0.2, seed=1, temperature=0.5)


def facts_of(text: str) -> list[list[str]]:
    """The cells of the table of facts, a line each."""
    part = text.split('<table class="facts">')[1].split("</table>")[0]
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", part)
    return [
        [unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", one)]
        for one in lines
    ]


def test_a_page_names_all_that_a_run_was_given_and_took(first, second):
    found = dict(facts_of(page(first)))
    assert found["model"] == "tiny-news" and found["sampler"] == str(first.sampler)
    assert found["reward"] == "short + 0.5 × sentiment:negative" and found["seed"] == "0"
    assert found["budget"] == "32 NFE a text" and found["prompts"] == "2"
    assert found["spent"].startswith(
        f"{first.asked.nfe:.4g} NFE and {first.asked.reward_calls:,.4g} reward calls a text"
    )
    assert found["computed"].startswith(f"{first.cost.nfe:.4g} NFE and {first.cost.reward_calls:,.4g} reward calls")
    assert found["seconds"].startswith(f"{first.seconds:.2f}, of these {first.parts['denoiser']:.2f} in the model")
    assert found["mean log-likelihood"] == f"{float(first.log_likelihood.mean()):.1f} nats"
    assert set(re.sub(r" \(\d\)", "", found["auto chose"]).split(", ")) == set(first.chosen)
    low, high = f"{float(first.alpha.min()):.3g}", f"{float(first.alpha.max()):.3g}"
    assert found["alpha"] == f"{low} to {high} by text, found in the run"
    other = dict(facts_of(page(second)))
    assert (other["alpha"], other["seed"], other["temperature"]) == ("0.2", "1", "0.5") and "auto chose" not in other


def test_methods_that_choose_say_what_they_chose(first):
    assert first.alpha.shape == (2,) and set(first.chosen) <= {"beam", "trajectory", "iterref"}
    given = made(alpha=0.3)
    assert given.about.alpha == 0.3 and given.alpha.tolist() == [0.3, 0.3]
    plain = made(sampler="ancestral:steps=2", budget=None)
    assert plain.alpha is plain.chosen is None and plain.about.alpha == 0.1 and plain.about.budget == ""
    assert made(sampler="beam").about.alpha is None


def test_an_edit_says_what_it_did():
    options = {"prompts": [""], "reward": "length:4", "budget": 16, "seed": 3}
    done = iterref.refine("tiny-books", ["the river was cold ."], strength=0.25, **options).result
    found = dict(facts_of(page(done)))
    assert (found["model"], found["reward"], found["seed"]) == ("tiny-books", "length:4", "3")
    assert (found["operation"], found["strength"]) == ("refine", "0.25") and "NFE a text" in found["budget"]
    assert done.trace.watch == (0,) and 'type="range"' in page(done)
    sized = iterref.infill("tiny-books", ["the [river] was cold ."], length=(1, 2), **options).result
    assert sized.trace.watch == ()  # a text may be that of another size


@pytest.mark.parametrize(
    ("batch", "length", "watched"), [(3, 32, 3), (99, 32, 8), (99, 512, 4), (2, 2048, 1), (2, 2049, 0)]
)
def test_the_first_texts_are_watched_up_to_a_size(batch, length, watched):
    from iterref.sampling import first_rows

    assert list(first_rows(batch, length)) == list(range(watched))


def test_rewards_have_names():
    assert reward_name("length:12") == "length:12" and reward_name(short) == "short"
    assert reward_name([short, "rouge"], [2.0, 1.0]) == "2 × short + rouge"
    total = weighted([short, reward_from_string("length:12")], [1.0, 0.5])
    assert re.fullmatch(r"short \+ 0\.5 × Length.*", reward_name(total))
    assert reward_name((reward_from_string("length:12") + 0 * reward_from_string("length:3")).clip(0, 1)).startswith(
        "clip("
    )
    assert "0x" not in reward_name(iterref.rewards.Perplexity("prose"))


def test_log_likelihood_stands_beside_the_reward(first):
    text = table(first)
    assert re.search(r"<th scope=\"col\">reward</th><th[^>]*>best seen</th><th[^>]*>log-likelihood</th>", text)
    assert all(f">{value:.1f}</td>" in text for value in first.log_likelihood.tolist())
    assert "log-likelihood" not in table(replace(first, log_likelihood=None))


def test_two_runs_stand_side_by_side(first, second):
    text = page(first, beside=second)
    reader, cells = Reader(text), {line[0]: line[1:] for line in facts_of(text)}
    assert reader.open == [] and len(runs_of(text)) == 2
    assert cells[""] == ["A", "B"] and cells["model"] == ["tiny-news", "tiny-news"]
    assert cells["seed"] == ["0", "1"] and cells["temperature"] == ["", "0.5"]
    assert '<tr class="differs"><th scope="row">seed' in text and '<tr><th scope="row">model' in text
    gap = (second.rewards - first.rewards).tolist()
    assert all(f">{value:+.4f}</td>" in text for value in gap)
    assert f"text by text: {sum(gap) / 2:+.4f} [" in text
    assert text.count('class="panel"') == 4 and text.count('type="range"') == 1
    svg = next(tag for tag in reader.of("svg") if tag.get("class") == "chart")
    assert "A: reward from" in svg["aria-label"] and "B: best reward seen from" in svg["aria-label"]


def test_what_cannot_be_compared_is_not(first, second):
    other = replace(second, about=replace(second.about, prompts=["one", "two"]))
    assert "different prompts: their rewards cannot be compared" in page(first, beside=other)
    other = replace(second, about=replace(second.about, reward="rouge"))
    assert "different rewards, which cannot be compared" in page(first, beside=other)
    one = page(first, beside=run(decode=words))
    assert "not watched in this run" in one and "cannot be compared" in one


def test_a_run_is_read_from_its_page_and_from_its_export(first, second, tmp_path):
    first.save_html(tmp_path / "first.html")
    second.save_html(tmp_path / "second.html")
    whole = page(first, beside=second)
    first.save_html(tmp_path / "both.html", beside=tmp_path / "second.html")
    assert (tmp_path / "both.html").read_text(encoding="utf-8") == whole
    (exported,) = runs_of(page(first))
    saved = {"format": document.FORMAT, "runs": [exported]}
    (tmp_path / "first.json").write_text(json.dumps(saved), encoding="utf-8")
    assert read_document(tmp_path / "first.json") == exported == read_document(tmp_path / "first.html")
    out = tmp_path / "out.html"
    told = CliRunner().invoke(
        main, ["page", str(tmp_path / "first.json"), str(tmp_path / "second.html"), "--out", str(out)]
    )
    assert told.exit_code == 0 and out.read_text(encoding="utf-8") == whole and told.stderr == f"written: {out}\n"


def test_json_lines_are_read_without_steps(first, second, tmp_path):
    first.to_jsonl(tmp_path / "a.jsonl")
    lines = [
        {"document": prompt, "text": text, "reward": None if row else reward, "cost": {"nfe": 4, "reward_calls": 2}}
        for row, (prompt, text, reward) in enumerate(zip(DOCUMENTS, second.texts, second.rewards.tolist(), strict=True))
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    text = page_of([read_document(tmp_path / name) for name in ("a.jsonl", "b.jsonl")])
    assert "No text was watched" in text and ">forbidden</td>" in text and "4 NFE and 2 reward calls a text" in text
    assert Reader(text).open == [] and "<b>" not in text.split("</style>")[1]


def test_a_file_that_does_not_say_its_prompts_or_reward_has_no_different_ones(first, second, tmp_path):
    second.to_jsonl(tmp_path / "b.jsonl")
    text, known = page(first, beside=tmp_path / "b.jsonl"), page(first, beside=second)
    assert "different" not in text and "and this holds if they are the other's.</p>" in text
    figures = re.compile("Reward of B less that of A, text by text: [^;]*")
    assert figures.findall(text) == figures.findall(known) != [] and "this holds" not in known


def test_json_lines_keep_their_rows_and_signs_that_cut_lines(first, tmp_path):
    """Before, rows of a sorted file were paired with others, and U+2028 in a text was the end of its line."""
    texts = [f"{text}\u2028\x85 {row}" for row, text in enumerate(first.texts)]
    replace(first, texts=texts).to_jsonl(tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + b"".join(reversed(lines)))  # sorted, say
    found = read_document(tmp_path / "b.jsonl")["rows"]
    assert [(row["row"], row["text"]) for row in found] == [*enumerate(texts)][::-1] and len(found) > 1


WRONG = {
    "text": ("one\ntwo\n", "line 1 of text is no JSON"),
    "empty": ("", "is empty: give a page, its JSON, or JSON lines"),
    "page": ("<!DOCTYPE html><p>hello", "is no page of a run: save one by save_html"),
    "rewardless": ('{"text": "one"}\n', "line 1 of .*rewardless has no field `reward`: give what"),
    "later": ('{"format":"iterref page 9","runs":[]}', "is of another version"),
    "two": ('{"format":"iterref page 1","runs":[1,2]}', "shows two runs: give the page of one"),
    "broken": ('{"format":"iterref page 1","runs":[', "holds no run that can be read"),
    "foreign": ('{"format":"iterref page 1","runs":[{"rows": 3}]}', "holds no run that can be read: save it anew"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_run_is_refused_in_a_sentence(name, tmp_path):
    text, sentence = WRONG[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        read_document(tmp_path / name)
    told = CliRunner().invoke(main, ["page", str(tmp_path / name), "--out", str(tmp_path / "out.html")])
    assert told.exit_code == 2 and told.stderr.count("\n") == 1 and not (tmp_path / "out.html").exists()


def test_a_page_made_of_a_foreign_file_lets_nothing_become_markup(first, tmp_path):
    """Every string of a document replaced by markup: what is written is text, or it is refused."""
    (found,) = runs_of(page(first))

    def evil(value):
        if isinstance(value, str):
            return value if value in ("text", "picture", "-inf") else EVIL
        if isinstance(value, dict):
            return {name: evil(one) for name, one in value.items()}
        return [evil(one) for one in value] if isinstance(value, list) else value

    saved = {"format": document.FORMAT, "runs": [evil(found)]}
    (tmp_path / "evil.json").write_text(json.dumps(saved), encoding="utf-8")
    text = page_of([read_document(tmp_path / "evil.json")])
    assert [tag for tag, _ in Reader(text).tags if tag in ("img", "b")] == [] and text.count("</script>") == 2
    for changed in ({"rows": [{**found["rows"][0], "row": EVIL}]}, {"steps": {**found["steps"], "watch": [EVIL]}}):
        saved["runs"] = [{**found, **changed}]
        (tmp_path / "evil.json").write_text(json.dumps(saved), encoding="utf-8")
        with pytest.raises(ValueError, match="holds no run that can be read"):
            read_document(tmp_path / "evil.json")


def test_the_output_is_never_the_input(first, tmp_path):
    first.save_html(tmp_path / "a.html")
    told = CliRunner().invoke(main, ["page", str(tmp_path / "a.html"), "--out", str(tmp_path / "a.html")])
    assert told.exit_code == 2 and "is the input, which would be lost" in told.stderr


def test_many_and_long_texts_are_cut_and_counted(first):
    """A page holds so many texts and characters, and says what it left out."""
    bounds = Bounds(texts=1, longest=20)
    found = describe(first, bounds=bounds)
    assert len(found["rows"]) == 1 and found["more"] == 1
    assert found["rows"][0]["prompt"] == f"{DOCUMENTS[0][:20]} ... ({len(DOCUMENTS[0]) - 20} more characters)"
    assert "and 1 more text" in page_of([found])
    assert len(describe(first, bounds=Bounds(characters=1))["rows"]) == 1  # one at the least
    many = replace(
        run(decode=words), texts=["x" * 5000] * 4000, tokens=torch.zeros(4000, 5).long(), rewards=torch.zeros(4000),
        best=replace(first.best, reward=torch.zeros(4000)),
    )  # fmt: skip
    text = page(many)
    assert len(text) < 2_000_000 and "A run of iterref: 4,000 texts" in text and "and 3,900 more texts" in text


def test_a_notebook_shows_the_page(first):
    shown = notebook(first)
    assert shown == first._repr_html_()
    reader = Reader(shown)
    (frame,) = reader.of("iframe")
    assert frame["sandbox"] == "allow-scripts allow-downloads"  # not the notebook's own origin
    assert frame["srcdoc"] == page_of([describe(first, bounds=Bounds().share(16))]) and len(frame["srcdoc"]) < 1_000_000
    assert shown.count("<table") == 1 and "<script" not in shown


def test_the_command_s_page_names_the_reward_as_it_was_written(tmp_path):
    out = tmp_path / "run.html"
    options = ["--reward", "length:4", "--budget", "16", "--model", "tiny-books", "--count", "1", "--html", str(out)]
    assert CliRunner().invoke(main, ["generate", *options]).exit_code == 0
    found = dict(facts_of(out.read_text(encoding="utf-8")))
    assert (found["reward"], found["model"], found["budget"]) == ("length:4", "tiny-books", "16 NFE a text")


def long_run(steps: int, rows: int, positions: int, candidates: int) -> Result:
    """A run as bad as any for the size of its page: all tokens change at every step, no candidates are alike."""
    rng, trace = torch.Generator().manual_seed(0), Trace(tuple(range(rows)))

    def tokens(*shape: int) -> torch.Tensor:
        return torch.randint(50_000, shape, generator=rng)

    for k in range(steps):
        given = {name: torch.rand(rows, generator=rng, dtype=torch.float64) for name in SERIES}
        given |= {name: torch.tensor(float(k)) for name in ("t", "depth", "nfe", "reward_calls")}
        trace.steps.append(given | {"watched": tokens(rows, positions), "clean": tokens(rows, positions)})
        verdicts, figures = (
            torch.zeros(candidates, rows, dtype=torch.int8),
            torch.rand(3, candidates, rows, generator=rng),
        )
        trace.rounds.append([Round(tokens(candidates, rows, positions).int(), figures[0], verdicts, *figures[1:])])
    result, many = run(decode=words), 3000
    return replace(
        result, trace=trace, texts=["x" * 900] * many, tokens=torch.zeros(many, positions).long(), begins=None,
        rewards=torch.zeros(many), best=replace(result.best, reward=torch.zeros(many)), show=" word{}".format,
    )  # fmt: skip


@pytest.mark.parametrize("sizes", [(100, 64, 64, 16), (2000, 4, 32, 2)])
def test_the_page_of_the_longest_run_stays_small(sizes):
    result = long_run(*sizes)
    text = page(result)
    assert 1_000_000 < len(text.encode()) < 8_000_000 and "more texts" in text
    assert len(notebook(result).encode()) < 2_000_000


def test_auto_tells_of_every_text_whichever_method_it_went_on_with(monkeypatch):
    """What a row's method did after the race does not hang on the rows beside it, and the page has its proposals."""
    monkeypatch.setattr("iterref.samplers.auto.moves_along", lambda run: False)  # else `beam` goes on with every row
    both, given = made(budget=64), {"reward": short, "budget": 64}
    assert len(set(both.chosen)) == 2
    steps = describe(both)["steps"]
    shown = [[bool(row) for row in step] for step in steps["rounds"]]
    assert [True, True] in shown and any(one[0] != one[1] for one in shown) and any(shown[-1])
    model = iterref.load("tiny-news", lossy=True)
    together = iterref.generate(model, DOCUMENTS, **given)
    for row, document_ in enumerate(DOCUMENTS):
        alone = iterref.generate(model, [document_], rows=[row], **given)
        one, two = alone.trace.table(), together.trace.table()
        assert torch.equal(one["accepted"][:, 0].nan_to_num(-1), two["accepted"][: len(one["t"]), row].nan_to_num(-1))
