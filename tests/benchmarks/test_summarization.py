"""The task of summaries: what is measured and by whom, what a budget buys, and that rows do not know of each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor

from benchmarks.diversity import copied
from benchmarks.frame import plan
from benchmarks.frame.names import SPANS
from benchmarks.records import Records
from benchmarks.rewards.lengths import Wanted, as_reference, counted
from benchmarks.summaries import Written, of_lengths
from benchmarks.tasks.summarization import ANSWERED, CASES, LENGTHS, MOVES, Summarization, task
from iterref.budget import Budget
from iterref.drafts import OwnDrafts
from iterref.exact.table import Table
from iterref.generation import draw_drafts, generate
from iterref.noise import Noise
from iterref.registry import get
from iterref.rewards import Consensus
from iterref.samplers.strings import sampler_from_string
from tests.support.fakes import FakeDenoiser, FakeModel

DOCUMENTS = ("alpha", "beta gamma", "gamma beta alpha", "alpha delta alpha delta", "beta delta gamma alpha beta")
REFERENCES = ("alpha", "gamma beta", ("gamma", "beta alpha"), "delta delta alpha", "beta")
CONSENSUS = ("consensus", "consensus+length")
OURS = SPANS.replace("tries=16", "tries=4")


class Grouped(FakeDenoiser):
    """One law a number of words, each asked once a call."""

    def __init__(self, tables: list[Table], noise: Noise, kinds: Tensor) -> None:
        super().__init__(tables, noise)
        self.kinds = kinds

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        laws = torch.empty(int(where.sum()), self.noise.vocab, dtype=torch.float64)
        kinds = self.kinds[rows]
        for kind in kinds.unique().tolist():
            some = kinds == kind
            laws[some[where.nonzero()[:, 0]]] = self.tables[kind](x_t[some], t[some], where[some], rows[some])
        return laws


class Model(FakeModel):
    """The same laws as those of `FakeModel`, with answers for many rows at once."""

    tables = [FakeModel().table("word " * n) for n in range(7)]

    def prepare(self, prompts: Sequence[str]) -> tuple[FakeDenoiser, Tensor, Tensor]:
        _, canvas, free = super().prepare(prompts)
        return Grouped(self.tables, self.noise, torch.tensor([len(text.split()) for text in prompts])), canvas, free


def made(references: Sequence[object] | None = REFERENCES) -> Summarization:
    told = None if references is None else tuple(references)
    return Summarization(Model(), Records("five", DOCUMENTS, told))


@pytest.fixture(scope="module")
def of() -> Summarization:
    return made()


def rows_of(n: int) -> Tensor:
    return torch.arange(n)


def cheap(rows: int) -> Budget:
    return Budget(nfe=rows, reward_calls=16 * rows)


def test_every_figure_is_there_once_and_in_order(of):
    assert of.cases == CASES and of.main == "rougeL" and list(of.measures)[0] == "reward"
    rows = rows_of(7)
    for case in CASES:
        result = of.sample(case, OURS, cheap(16), rows, 0)
        found, whole = of.judge(case, result, rows), of.whole(case, result, rows)
        expected = set(of.measures) - ({"seen"} if case not in CONSENSUS else set())
        expected -= {"met"} if case not in LENGTHS else set()
        assert set(found) | set(whole) == expected and not set(found) & set(whole)
        assert all(values.shape == (7,) and values.dtype == np.float64 for values in found.values())
        assert all(np.isfinite(found[name]).all() for name in set(found) - {"prose"}) and 0 < whole["distinct"] <= 1


def test_without_references_what_needs_them_is_left_out():
    bare, rows = made(None), rows_of(3)
    assert bare.cases == tuple(case for case in CASES if case not in ANSWERED) and bare.main == "reward"
    worth = {"log_likelihood", "prose", "j"}
    assert set(bare.measures) == {"reward", "words", "copy", "seen", "distinct", "met"} | worth
    found = bare.judge("source", bare.sample("source", OURS, cheap(32), rows, 0), rows)
    assert set(found) == {"reward", "words", "copy"} | worth
    with pytest.raises(ValueError, match="has no case 'reference': choose one of consensus, source"):
        bare.sample("reference", OURS, None, rows, 0)


def test_rows_do_not_know_of_each_other(of):
    """Any split gives the same; row 5 is about document 0 again, with a random stream of its own."""
    case, rows, apart, differ = "consensus+length", rows_of(8), made(), False
    for method in of.methods(case):
        budget = cheap(96 if method.startswith(("select_refine", "beam")) else 24)
        whole = of.sample(case, method, budget, rows, 3)
        judged = of.judge(case, whole, rows)
        part = torch.tensor([5, 2])
        alone = apart.sample(case, method, budget, part, 3)
        assert torch.equal(alone.tokens, whole.tokens[part]) and torch.equal(alone.rewards, whole.rewards[part])
        for name, values in apart.judge(case, alone, part).items():
            one = judged[name][part.numpy()]
            assert np.array_equal(values, one) or (name == "prose" and np.allclose(values, one, atol=1e-5))
        assert whole.texts is not None
        differ |= whole.texts[:3] != whole.texts[5:]
    assert differ
    other = of.sample(case, "ancestral", cheap(16), rows, 4)  # negative control: the seed does matter
    assert not torch.equal(other.tokens, of.sample(case, "ancestral", cheap(16), rows, 3).tokens)


@pytest.mark.parametrize(
    ("case", "budget"),
    [
        ("consensus", cheap(16)),
        ("consensus", Budget(total=64)),
        pytest.param("consensus", cheap(48), marks=pytest.mark.slow),
        pytest.param("source", cheap(32), marks=pytest.mark.slow),
    ],
)
def test_what_is_compared_keeps_its_budget(of, case, budget):
    rows, plain = rows_of(2), 16
    assert of.plain(case) == plain and sampler_from_string("ancestral").cost().nfe == plain
    for method in of.methods(case):
        try:
            result = of.sample(case, method, budget, rows, 0)
        except ValueError as error:
            dear = ("select_refine:steps=8", "beam", "smc:steps=8,objective=maximise,order=confidence,x0_samples=16")
            assert method in dear and f"too small for one run of {method.partition(':')[0]}" in str(error)
            continue
        assert budget.allows(result.asked), method
        if method.startswith("iterref") and budget.nfe < 100:
            assert result.asked.nfe == budget.nfe  # nothing is left over
        fitted = sampler_from_string(str(result.sampler))
        assert isinstance(fitted, get("best_of_n" if method == "mbr" else Written.read(method).name))


def test_methods_begin_with_the_model_alone_and_end_with_ours(of):
    for case in CASES:
        methods = of.methods(case)
        assert methods[0] == "ancestral" and methods[-1] == of.ours(case)
        assert ("mbr" in methods) == (f"drafts+{SPANS}" in methods) == (case in CONSENSUS)
        assert len(set(methods)) == len(methods)


def test_a_length_is_asked_for_by_number_or_by_the_reference(of):
    texts = ["alpha beta gamma .", "alpha", "alpha ## - beta delta delta delta", "gamma beta"]
    assert [counted(text) for text in texts] == [3, 1, 6, 2]
    assert Wanted(6)(texts) == [-0.5, -5 / 6, 0.0, -4 / 6]
    assert as_reference(texts, ["alpha beta .", "one", ("a b c", "a"), "."]) == [-0.5, 0.0, -1.0, -1.0]
    rows = rows_of(5)
    for case in ("length", "length-6"):
        found = of.judge(case, of.sample(case, "auto", cheap(32), rows, 0), rows)
        assert found["met"].tolist() == [float(value == 0) for value in found["reward"]]


def test_the_table_of_lengths_is_read_from_the_runs(tmp_path):
    file = tmp_path / "runs.csv"
    head = "case,method,budget,met,rougeL,log_likelihood,j,note"
    rows = ["length,auto,4,0.5,0.79,-4.6,-17.5,", "length,auto,8,0.6,0.8,-4,-15,", "length,beam,4,1,1,-1,-1,",
            "length-6,exact+auto,4,1,0.61,-10.7,-10.7,", "estimate,auto,4,,0.7,-3,70,"]  # fmt: skip
    file.write_text("\n".join([head, *rows]) + "\n")
    assert of_lengths(file, LENGTHS).splitlines()[2:] == [
        "| length | `auto`, the length as its reward | 0.50 | 0.790 | -4.6 | -17.5 |",
        "| length-6 | `auto`, the length as a constraint | 1.00 | 0.610 | -10.7 | -10.7 |",
    ]
    assert of_lengths(file, ["source"]) == ""


def test_the_reward_is_measured_with_a_pool_that_no_search_saw(of):
    rows = rows_of(5)
    one, more = (of.sample("consensus", OURS, cheap(size), rows, 0) for size in (16, 64))
    plain = of.sample("consensus", "ancestral", None, rows, 0)
    pool = draw_drafts(Model(), list(DOCUMENTS), of.drafts, seed=918_273_645).texts
    for result in (one, more, plain):
        by_hand = Consensus(pool)(result.texts, rows=list(range(5)))
        assert of.judge("consensus", result, rows)["reward"].tolist() == by_hand
    seen = [of.judge("consensus", result, rows)["seen"] for result in (one, more, plain)]
    assert seen[0].tolist() == one.rewards.tolist()
    # the model's drafts have nothing to do with a run's seed, and nobody pays for the judge's
    assert plain.asked.nfe == 16 and plain.rewards.tolist() == seen[2].tolist()
    assert of.judge("consensus", plain, rows)["reward"].tolist() == seen[2].tolist()


def test_a_search_under_few_drafts_sees_more_than_there_is(of):
    """It finds a text that one draft agrees with entirely; the gap closes as the pool grows."""
    rows, gaps = rows_of(50), []
    for method, size in ((OURS, 24), (OURS, 120), ("ancestral", 24)):
        judged = of.judge("consensus", of.sample("consensus", method, cheap(size), rows, 0), rows)
        gaps.append(judged["seen"] - judged["reward"])
    assert gaps[0].mean() > 0.2 and gaps[0].mean() > gaps[1].mean() + 0.1 > 0.1
    assert (gaps[2] == 0).all()  # negative control


def test_mbr_is_the_draft_that_agrees_most_with_the_others(of):
    rows, budget = rows_of(5), Budget(nfe=100)
    result = of.sample("consensus", "mbr", budget, rows, 2)
    drafts = OwnDrafts(12, 8, temperature=0.5)
    pool = draw_drafts(Model(), list(DOCUMENTS), drafts, seed=2)
    assert torch.equal(result.tokens, pool.best()[0])
    assert result.asked.nfe == 96 and result.asked.reward_calls == 13 and str(result.sampler) == "best_of_n:n=12"
    assert result.rewards.tolist() == pytest.approx(pool.reward()(result.texts, rows=list(range(5))))
    assert of.sample("consensus", "mbr", None, rows, 2).asked.nfe == 128
    with pytest.raises(ValueError, match="too small for a draft of 8 NFE: raise it"):
        of.sample("consensus", "mbr", Budget(nfe=7), rows, 2)


def test_refinement_from_drafts_begins_with_the_best_one(of):
    rows = rows_of(5)
    begun = of.sample("consensus", "drafts+iterref:moves=0,objective=maximise", None, rows, 1)
    mbr = of.sample("consensus", "mbr", None, rows, 1)
    assert torch.equal(begun.tokens, mbr.tokens)
    refined = of.sample("consensus", f"drafts+{OURS}", None, rows, 1)
    asked = of.sample("consensus", OURS, None, rows, 1, start="drafts")
    assert torch.equal(refined.tokens, asked.tokens) and refined.sampler == asked.sampler
    assert bool((refined.rewards >= begun.rewards).all()) and bool((refined.rewards > begun.rewards).any())


def test_other_rewards_are_what_their_names_say(of):
    texts = ["alpha delta", "beta", "", "gamma gamma alpha", "beta delta gamma alpha beta"]
    rows, scorer = rows_of(5), RougeScorer(["rougeL"])
    result = of.sample("source", "ancestral", None, rows, 0)
    result.texts[:] = texts
    source = [scorer.score(d, t)["rougeL"].precision for d, t in zip(DOCUMENTS, texts, strict=True)]
    assert of.judge("source", result, rows)["reward"].tolist() == pytest.approx(source)
    judged = of.judge("reference", result, rows)
    assert judged["reward"].tolist() == pytest.approx(judged["rougeL"].tolist()) and judged["rougeL"][4] > 0
    length = of.judge("source+length", result, rows)["reward"] - np.array(source)
    assert length.tolist() == pytest.approx([-(8 - n) / 8 for n in (2, 1, 0, 3, 5)])
    assert judged["words"].tolist() == [2, 1, 0, 3, 5]
    assert copied(texts, DOCUMENTS).tolist() == pytest.approx([1 / 2, 1, 0, 1 / 3, 1])
    assert copied(["The mill's 12, SOLD!"], ["a mill was sold; its 12"]).tolist() == [3 / 5]


def test_a_reward_rises_where_it_is_optimised(of):
    rows = rows_of(40)

    def reward(case: str, method: str, seed: int = 0) -> np.ndarray:
        return of.judge(case, of.sample(case, method, cheap(32), rows, seed), rows)["reward"]

    for case in ("source", "reference", "consensus+length"):
        gain = reward(case, OURS) - reward(case, "ancestral")
        assert gain.mean() > 4 * gain.std() / len(rows) ** 0.5 > 0, case
    none = reward("source", "ancestral", 1) - reward("source", "ancestral", 2)  # negative control
    assert 0 < abs(none.mean()) < 4 * none.std() / len(rows) ** 0.5


def test_moves_begin_with_plain_sampling(of):
    assert {k: sampler_from_string(method).moves for k, method in of.moves("source")} == {k: 8 * k for k in MOVES}
    rows, rewards = rows_of(120), []
    for method in (*(method for _, method in of.moves("source")[:4:3]), "ancestral:steps=8"):
        result = of.sample("source", method, None, rows, len(rewards))
        rewards.append(of.judge("source", result, rows)["reward"])
        assert result.asked.nfe == (26 if "moves=24" in method else 8)
    none, three, plain = rewards
    error = float(plain.std()) * (2 / len(rows)) ** 0.5
    assert abs(none.mean() - plain.mean()) < 4 * error < three.mean() - plain.mean()


def test_a_method_is_written_with_its_start_and_temperature():
    assert Written.read("drafts+iterref:span=0.5+0.25@0.7") == Written("iterref:span=0.5+0.25", True, 0.7)
    assert Written.read(" ancestral ") == Written("ancestral", False, 0.5) and Written.read("ancestral").unguided
    assert Written.read("iterref", "drafts").drafts and Written.read("mbr").drafts
    for wrong in ("ancestral@", "ancestral@warm", "ancestral@0", "ancestral@-1", "ancestral@inf", "ancestral@nan"):
        with pytest.raises(ValueError, match="no temperature after the @: write a number above 0, as in ancestral@0.5"):
            Written.read(wrong)
    for wrong in ("mbr:n=4", "mbr@0.3", "drafts+mbr"):
        with pytest.raises(ValueError, match="has options, and mbr has none"):
            Written.read(wrong)


def test_what_cannot_be_run_is_refused(of):
    rows = rows_of(2)
    for method in ("mbr", f"drafts+{OURS}"):
        with pytest.raises(ValueError, match="needs drafts, and the case 'source' has none"):
            of.sample("source", method, None, rows, 0)
    with pytest.raises(ValueError, match="ancestral cannot start from given texts"):
        of.sample("consensus", "drafts+ancestral", None, rows, 0)
    with pytest.raises(ValueError, match="not from 'noise'"):
        of.sample("consensus", OURS, None, rows, 0, start="noise")
    with pytest.raises(ValueError, match="did you mean 'iterref'"):
        of.sample("consensus", "iteref", None, rows, 0)
    with pytest.raises(ValueError, match="leaves no room after the 8 NFE of the drafts"):
        of.sample("consensus", OURS, Budget(nfe=8), rows, 0)
    for asked in (of.plain, of.methods, of.moves):
        with pytest.raises(ValueError, match="has no case 'cosensus': choose one of consensus"):
            asked("cosensus")


def test_temperature_sharpens_the_model(of):
    rows = rows_of(200)

    def kinds(method: str) -> int:
        return len(of.sample("source", method, None, rows, 0).tokens.unique(dim=0))

    assert kinds("ancestral@0.1") < kinds("ancestral") == kinds("ancestral@0.5") < kinds("ancestral@1.0")


def test_models_and_data_of_users(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("text\nalpha beta\none two three four five six seven\n", encoding="utf-8")
    found = task(model=Model(), data=file, document="text", lead=4)
    assert found.records == Records("mine.csv", ("alpha beta", "one two three four"))
    assert found.main == "reward" and found.cases == tuple(case for case in CASES if case not in ANSWERED)
    with pytest.raises(ValueError, match="row 1 of mine.csv is refused by the model .*reads 6.* as in lead=60"):
        task(model=Model(), data=file, document="text")
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        task(model=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        task(model=Model(), data=tmp_path / "none.jsonl")
    painter = Model()
    painter.draws_images = True
    with pytest.raises(ValueError, match="draws images: give one that writes texts"):
        task(model=painter)


def test_quick_runs_on_what_is_bundled():
    found, rows = plan._task("summarization", (), True), rows_of(2)
    assert len(found.records) == 32 and found.cases == ("consensus",) and found.main == "rougeL"
    names = [sampler_from_string(method).name for method in found.methods("consensus")]
    assert names == ["ancestral", "best_of_n", "smc", "svdd", "auto"]
    judged = {}
    for method in ("ancestral", found.ours("consensus")):
        result = found.sample("consensus", method, cheap(4 * found.plain("consensus")), rows, 0)
        assert 30 <= result.asked.nfe <= 32  # whole tails leave a row over
        judged[method] = found.judge("consensus", result, rows)
    assert all(values["rougeL"].mean() > 0.4 and values["copy"].mean() > 0.8 for values in judged.values())


def test_the_same_call_of_the_library_gives_the_same_summaries():
    """Nothing stands between the task and `generate`: what a user of the library runs is what is measured."""
    of, rows = made(), torch.tensor([2, 4])
    ours = of.sample("consensus", OURS, cheap(64), rows, 5)
    drafts = OwnDrafts(int(64 * 2 / 3) // 8, 8, temperature=0.5)
    plain = generate(
        Model(), [DOCUMENTS[2], DOCUMENTS[4]], reward=drafts, sampler=OURS, alpha=0.01, budget=cheap(64), seed=5,
        rows=rows, temperature=0.5,
    )  # fmt: skip
    assert torch.equal(ours.tokens, plain.tokens) and ours.asked == plain.asked
