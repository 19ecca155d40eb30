"""The model type `iterref` of lm-evaluation-harness: exact log-likelihoods, texts that no batch changes, tasks."""

from __future__ import annotations

import copy
import json
import logging
import math
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("lm_eval", reason="the harness is not installed: pip install 'iterref[lm-eval]'")

import datasets
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from iterref.generation import generate
from iterref.integrations import lm_eval as integration
from iterref.integrations.lm_eval import Harness, IterRefLM, judge
from iterref.loading import load
from iterref.models import Chat
from iterref.noise import uniform
from iterref.optional import MissingExtra
from iterref.random import identity
from tests.support import llada, sums
from tests.support.sums import END, LETTERS, Sums
from tests.support.tokenizers import codec, knowing_nothing

TASKS = Path(__file__).parents[2] / "examples" / "lm_eval"
PROMPT = "Question: what is 4 + 5 =\nAnswer: 4 + 5 ="
OTHER = "12 - 9 ="


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The harness' class, whose model is the exact one."""
    monkeypatch.setattr(integration, "load", lambda name, **place: Sums())
    return IterRefLM


def request(kind: str, *given: Any, **doc: Any) -> Instance:
    return Instance(kind, doc, given, 0)


def ask(context: str, **given: Any) -> Instance:
    return request("generate_until", context, given)


# --- log-likelihoods --------------------------------------------------------------------------------------------------


def exact(prompt: str, text: str) -> float:
    """log of the sum of p over all answers that begin with a text."""
    table, ids = Sums().table(prompt), Sums().codec.ids([text])[0]
    begins = (table.states()[:, : len(ids)] == torch.tensor(ids)).all(1)
    return float(table.log_p[begins].logsumexp(0))


@pytest.mark.parametrize("text", [" 9\n", " 12", " 7", " ", "9", "31\n"])
def test_a_log_likelihood_is_the_exact_one(harness: Any, text: str) -> None:
    """With as many evaluations as tokens; what stands behind a shorter text is left open, and summed over."""
    found = harness().loglikelihood([request("loglikelihood", PROMPT, text)], disable_tqdm=True)
    assert found[0][0] == pytest.approx(exact(PROMPT, text), abs=1e-9)
    one = harness(evaluations=1).loglikelihood([request("loglikelihood", PROMPT, text)], disable_tqdm=True)
    assert len(text) == 1 or abs(one[0][0] - exact(PROMPT, text)) > 1e-6  # the control: one group is not the chain rule


def test_batches_and_order_change_no_log_likelihood(harness: Any) -> None:
    pairs = [(prompt, text) for prompt in (PROMPT, OTHER) for text in (" 9\n", " 3\n", " 4", "", " 8\n", " 12")]
    asked = [request("loglikelihood", *pair) for pair in pairs]
    alone = [harness().loglikelihood([one], disable_tqdm=True)[0] for one in asked]
    assert harness(batch_size=5).loglikelihood(asked, disable_tqdm=True) == alone
    assert harness(batch_size="auto").loglikelihood(asked[::-1], disable_tqdm=True) == alone[::-1]
    assert alone[pairs.index((PROMPT, ""))] == (0.0, True)
    greedy = {pair for pair, (_, likeliest) in zip(pairs, alone, strict=True) if likeliest}
    assert {(PROMPT, " 9\n"), (OTHER, " 3\n")} <= greedy and (PROMPT, " 8\n") not in greedy


def test_a_space_belongs_to_the_word_behind_it(harness: Any) -> None:
    behind, before = (harness().loglikelihood([request("loglikelihood", *pair)], disable_tqdm=True)
                      for pair in ((PROMPT + " ", "9\n"), (PROMPT, " 9\n")))  # fmt: skip
    assert behind == before


def test_under_noise_without_a_mask_it_is_the_pseudo_likelihood() -> None:
    class Uniform(Sums):
        def __init__(self) -> None:
            super().__init__()
            self.noise = uniform(len(LETTERS))

        def prepare(self, prompts: Any) -> Any:
            denoiser = self.table(prompts[0])
            canvas = torch.full((len(prompts), 3), END)
            return denoiser, canvas, torch.ones_like(canvas, dtype=torch.bool)

    model = Uniform()
    made = generate(model, [PROMPT], reward=lambda completions: [float(" 9" in one) for one in completions],
                    budget=16, log_likelihood=True)  # fmt: skip
    assert made.log_likelihood is not None
    [(found, _)] = judge(model, [PROMPT], made.tokens.tolist(), 8)
    assert found == pytest.approx(float(made.log_likelihood[0]), abs=1e-6)


def test_a_text_by_itself_is_judged_window_by_window(harness: Any) -> None:
    text = "1 234"
    lm = harness()
    [found] = lm.loglikelihood_rolling([request("loglikelihood_rolling", text)], disable_tqdm=True)
    parts = [exact("", "1 2"), exact("", "34")]
    assert found == pytest.approx(sum(parts), abs=1e-9)
    with pytest.raises(ValueError, match="answer 0 has 4 tokens and the canvas room for 3: shorten it"):
        lm.loglikelihood([request("loglikelihood", PROMPT, " 123")], disable_tqdm=True)


def test_tiny_news_knows_its_own_summaries() -> None:
    """Of a bundled network: the summary of a sentence is likelier than that of another, in all of 6 pairs."""
    lm = IterRefLM(pretrained="tiny-news", device="cuda:0", dtype="float32")  # the harness' device, on a CPU
    lines = datasets.Dataset.from_json(str(TASKS / "headlines.jsonl"), cache_dir=None, keep_in_memory=True)
    asked = [request("loglikelihood", line["document"], " " + line["choices"][place])
             for line in list(lines)[:6] for place in (line["gold"], (line["gold"] + 1) % 4)]  # fmt: skip
    found = [log_p for log_p, _ in lm.loglikelihood(asked, disable_tqdm=True)]
    assert all(own > other + 10 for own, other in zip(found[::2], found[1::2], strict=True))


# --- texts ------------------------------------------------------------------------------------------------------------


def test_a_text_is_what_python_makes_whatever_stands_beside_it(harness: Any) -> None:
    asked = [ask(f"{a} + {b} =", until=["\n"]) for a in (3, 14, 20) for b in (5, 6)] * 2
    lm = harness(sampler="iterref", reward="length:1", nfe=8, seed=4)
    texts = lm.generate_until(asked, disable_tqdm=True)
    rows = [identity(4, one.args[0], place // 6) for place, one in enumerate(asked)]
    made = generate(Sums(), [one.args[0] for one in asked], reward="length:1", sampler="iterref", budget=8, rows=rows)
    assert texts == made.texts and len(set(texts)) > 6
    assert harness(sampler="iterref", reward="length:1", nfe=8, seed=4, batch_size=5).generate_until(
        asked[6:] + asked[:6], disable_tqdm=True
    ) == texts  # a prompt that is asked twice has two texts, in the order in which it is asked
    assert texts[:6] != texts[6:]
    other = harness(sampler="iterref", reward="length:1", nfe=8, seed=5).generate_until(asked, disable_tqdm=True)
    assert other != texts


def test_stop_strings_and_settings_of_single_requests(harness: Any, caplog: pytest.LogCaptureFixture) -> None:
    lm = harness(sampler="ancestral", reward="length:1", nfe=3)
    plain = lm.generate_until([ask(f"{a} + 7 =") for a in range(12)], disable_tqdm=True)
    cut = lm.generate_until([ask(f"{a} + 7 =", until="1") for a in range(12)], disable_tqdm=True)
    assert any("1" in text for text in plain) and cut == [text.partition("1")[0] for text in plain]
    warm, cold = (len({*lm.generate_until([ask("1 + 7 =", temperature=heat)] * 24, disable_tqdm=True)})
                  for heat in (1.0, 0.01))  # fmt: skip
    assert cold < warm / 2
    with caplog.at_level(logging.WARNING, "iterref.lm_eval"):
        lm.generate_until([ask("1 + 7 =", temperature=0.0, top_p=0.9, max_gen_toks=9)] * 3, disable_tqdm=True)
        lm.generate_until([ask("1 + 7 =", do_sample=False)], disable_tqdm=True)
    told = [record.message for record in caplog.records]
    assert len(told) == 3 and "greedy decoding: texts are drawn at temperature 1" in told[1]
    assert "top_p=0.9 of a task is not followed" in told[0] and "3 positions at the most, and 9" in told[2]


def test_what_cannot_be_read_is_refused_before_a_text_is_made(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(Sums):
        def prepare(self, prompts: Any) -> Any:
            if any(len(prompt) > 20 for prompt in prompts):
                raise ValueError("prompt 0 is too long")
            return super().prepare(prompts)

    monkeypatch.setattr(integration, "load", lambda name, **place: Short())
    monkeypatch.setattr(integration, "generate", lambda *given, **options: pytest.fail("a text was made"))
    with pytest.raises(ValueError, match="too long"):
        harness(batch_size=1).generate_until([ask("1 + 7 ="), ask(PROMPT)], disable_tqdm=True)
    for wrong in ({"batch_size": 0}, {"evaluations": 0}):
        with pytest.raises(ValueError, match="give at least 1 of each"):
            harness(**wrong)


def test_a_conversation_goes_through_the_chat_template(tmp_path: Path) -> None:
    llada.checkpoint(tmp_path)
    lm = IterRefLM(pretrained=str(tmp_path), length=6, sampler="ancestral", reward="length:2", nfe=3)
    said = [("system", "the dog ran"), ("user", "a cat"), ("assistant", "the man"), ("user", "the dog")]
    chat = lm.apply_chat_template([{"role": role, "content": text} for role, text in said])
    assert isinstance(chat, Chat) and copy.deepcopy(chat).messages == tuple(said) and copy.deepcopy(chat) == chat
    assert all(text in chat for _, text in said)  # the harness caches answers by the text
    ids = load(tmp_path).ids([chat, "the dog"])  # type: ignore[attr-defined]
    assert ids[0] == lm.model.codec.tokenizer.encode(str(chat), add_special_tokens=False).ids
    assert len(ids[0]) > len(ids[1]) > len(lm.plain.ids(["the dog"])[0])
    texts = lm.generate_until([ask(chat, max_gen_toks=4), ask("the dog", max_gen_toks=4)], disable_tqdm=True)
    made = generate(load(tmp_path, length=4), [chat], reward="length:2", sampler="ancestral", budget=3,
                    rows=[identity(0, chat, 0)])  # fmt: skip
    assert texts[0] == (made.texts or [])[0]
    judged = lm.loglikelihood([request("loglikelihood", one, " a man") for one in (chat, "the dog")], disable_tqdm=True)
    assert judged[0] != judged[1]
    assert lm.chat_template() == lm.model.codec.template and "/" not in lm.tokenizer_name
    with pytest.raises(ValueError, match="ends with what the user says"):
        lm.apply_chat_template([{"role": "assistant", "content": "x"}], add_generation_prompt=False)


def test_a_model_whose_texts_begin_with_their_prompts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It finds all tokens alike, so that n of them have the log-likelihood -n log V, whatever stands behind them."""
    model = knowing_nothing(codec(tmp_path, "words"), length=9)
    monkeypatch.setattr(integration, "load", lambda name, **place: model)
    lm = IterRefLM(sampler="ancestral", reward="length:2", nfe=4)
    asked = [request("loglikelihood", "the cat", text) for text in (" sat", " sat on the mat")]
    found = [log_p for log_p, _ in lm.loglikelihood(asked, disable_tqdm=True)]
    each = -math.log(model.noise.vocab - 1)
    assert found == pytest.approx([each, 4 * each], abs=1e-5)
    rolling = lm.loglikelihood_rolling([request("loglikelihood_rolling", "the cat sat on mat a man ran home")])
    assert rolling == pytest.approx([9 * each], abs=1e-5)
    texts = lm.generate_until([ask("the cat"), ask("the cat", until=["the", "cat"])], disable_tqdm=True)
    assert not texts[0].startswith("the cat") and not {"the", "cat"} & {*texts[1].split()}


def test_a_conversation_is_refused_without_a_template(harness: Any) -> None:
    with pytest.raises(ValueError, match="has no chat template: leave --apply_chat_template out"):
        harness().apply_chat_template([{"role": "user", "content": "x"}])
    chat = Chat([("system", "x"), ("user", "1 + 1 =")])
    with pytest.raises(ValueError, match="prompt 0 is a conversation of 2 messages, and this model has no chat"):
        generate(Sums(), [chat], reward="length:1", budget=4)


# --- tasks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def evaluated(harness: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Results of tasks of the examples, whose questions end with the sum that the exact model reads."""
    monkeypatch.chdir(TASKS)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))

    def results(name: str, **options: Any) -> Any:
        task = yaml.safe_load((TASKS / f"{name}.yaml").read_text(encoding="utf-8"))
        return lm_eval.simple_evaluate(
            model="iterref", model_args=options, tasks=[{**task, "doc_to_text": "{{sum}} ="}], batch_size=16,
            task_manager=TaskManager(include_defaults=False), bootstrap_iters=0,
        )  # fmt: skip

    yield results


def test_a_verifier_raises_the_share_of_right_sums(evaluated: Any, tmp_path: Path) -> None:
    """Under the harness' own count; the reward reads the answer of the document, so this says that all is wired up."""
    (tmp_path / "verifiers.py").write_text(Path(sums.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    plain = evaluated("sums", sampler="ancestral", reward="length:1", nfe=3)
    guided = evaluated("sums", reward=f"{tmp_path}/verifiers.py:right", columns="answer", nfe=64)
    shares = [found["results"]["sums"]["exact_match,first-number"] for found in (plain, guided)]
    assert shares[0] < 0.7 and shares[1] > 0.95
    assert guided["config"]["budget"] == 64 and guided["config"]["model"] == "iterref"
    assert all(len(sample["resps"][0]) == 1 for sample in guided["samples"]["sums"])


def test_the_likeliest_choice_is_the_right_one(evaluated: Any) -> None:
    assert evaluated("sums_choice")["results"]["sums_choice"]["acc,none"] == 1.0


def test_examples_of_a_conversation_are_turns_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the harness' own prompts: what the model is asked are conversations, with what was said before."""
    llada.checkpoint(tmp_path / "model")
    lines = [{"q": "the cat", "a": "a man"}, {"q": "the dog", "a": "a man"}]
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    asked: list[Any] = []

    def seen(self: Harness, requests: list[Instance]) -> list[str]:
        asked.extend(one.args[0] for one in requests)
        return [""] * len(requests)

    monkeypatch.setattr(Harness, "generate_until", seen)
    task = {
        "task": "talk", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test", "fewshot_split": "test", "output_type": "generate_until", "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}", "metric_list": [{"metric": "exact_match"}], "generation_kwargs": {"until": ["x"]},
    }  # fmt: skip
    lm_eval.simple_evaluate(
        model="iterref", model_args={"pretrained": str(tmp_path / "model")}, tasks=[task], bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False), apply_chat_template=True, num_fewshot=1,
        fewshot_as_multiturn=True, system_instruction="the dog ran",
    )  # fmt: skip
    assert [one.messages for one in asked] == [
        (("system", "the dog ran"), ("user", other), ("assistant", "a man"), ("user", own))
        for own, other in (("the cat", "the dog"), ("the dog", "the cat"))
    ]


def test_it_is_a_model_type_of_the_harness() -> None:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import get_model

    assert get_model("iterref") is IterRefLM is integration.register()
    assert get_model("local-completions") is not IterRefLM and get_model("hf")  # the harness' own are there, too
    assert issubclass(IterRefLM, LM) and issubclass(IterRefLM, Harness)


def test_without_the_harness_the_command_says_so_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iterref.optional.find_spec", lambda name: None)
    told = r"the model type iterref needs lm_eval: pip install 'iterref\[lm-eval\]'$"
    with pytest.raises(SystemExit, match=f"^Error: {told}"), pytest.warns(RuntimeWarning, match="found in sys.modules"):
        runpy.run_module(integration.__name__, run_name="__main__")
    with pytest.raises(MissingExtra, match=f"^{told}"):
        integration.register()
