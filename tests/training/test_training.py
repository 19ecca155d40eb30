"""Tests of the losses, the pairs and the trainer."""

from __future__ import annotations

import gzip
import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from iterref.generation import generate
from iterref.interrupts import held_back
from iterref.models.tiny_news import Summarizer
from iterref.models.transformer import Memory, Transformer, TransformerOptions
from iterref.training import TrainConfig, masked_loss, spread_times, train
from iterref.training.data import EOS, MASK, PAD, Pairs, batches, kept, read_pairs, train_tokenizer
from iterref.training.trainer import Trainer, token_weight
from tests.support.training import small_run, write_pairs, write_sentences


def tiny() -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        TransformerOptions(
            vocab=20, mask=MASK, pad=PAD, width=32, heads=2, hidden=32, encoder_layers=1, decoder_layers=1
        )
    )


class Constant(Transformer):
    """A network that gives every token the same log-probability."""

    def target_log_probs(self, states: Tensor, memory: Memory, where: Tensor, target: Tensor) -> Tensor:
        return torch.full((int(where.sum()),), -2.0)


def test_times_fall_one_into_each_cell() -> None:
    t = spread_times(50, torch.Generator().manual_seed(3))
    assert ((0 < t) & (t <= 1)).all()
    cells = torch.sort((t * 50 - 1e-4).floor().long()).values
    assert cells.tolist() == list(range(50))


def test_masked_loss_is_the_mean_over_masked_tokens() -> None:
    """With log p = -2 everywhere the loss is 2 P(at least one mask) = 2 L / (L + 1)."""
    options = tiny().options
    network = Constant(options)
    target = torch.randint(3, 20, (4000, 4), generator=torch.Generator().manual_seed(0))
    memory = network.encode(target)
    loss = masked_loss(network, memory, target, torch.ones(4000, 4), torch.Generator().manual_seed(1))
    assert float(loss) == pytest.approx(2 * 4 / 5, abs=0.025)
    halved = masked_loss(network, memory, target, torch.full((4000, 4), 0.5), torch.Generator().manual_seed(1))
    assert float(halved) == pytest.approx(float(loss) / 2)


def test_the_loss_teaches_a_network_to_copy() -> None:
    network = tiny()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(80):
        target = torch.randint(3, 20, (32, 5), generator=generator)
        loss = masked_loss(network, network.encode(target), target, torch.ones(32, 5), generator, copies=2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.3
    assert sum(losses[-10:]) / 10 < 0.5 * losses[0]


def test_an_unrelated_source_does_not_help() -> None:
    """The control of the test above: what is learnt is to copy, not the law of the targets."""
    network = tiny()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        source, target = torch.randint(3, 20, (2, 32, 5), generator=generator)
        loss = masked_loss(network, network.encode(source), target, torch.ones(32, 5), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) > 1.5


def test_repeated_end_tokens_weigh_less() -> None:
    target = torch.tensor([[7, 8, EOS, EOS, EOS]])
    assert token_weight(target, 0.2).tolist() == [pytest.approx([1, 1, 1, 0.2, 0.2])]


def test_kept_tokens_are_a_common_subsequence() -> None:
    assert kept([1, 2, 3, 4, 5], [2, 4]) == [False, True, False, True, False]
    assert kept([1, 2], [3]) == [False, False]


def test_tokenizer_gives_the_words_back() -> None:
    tokenizer = train_tokenizer(["the cat sat on ## mats .", "a kusturica film"], 80)
    for text in ("the cat sat .", "tams on ## filmica"):  # words it never saw come in pieces
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.token_to_id("<unk>") in tokenizer.encode("the ж").ids


def test_pairs_that_do_not_fit_are_left_out() -> None:
    tokenizer = train_tokenizer(["a b c d e f"], 20)
    rows = [("a b c", "a c"), ("a b c d e f", "a"), ("a b", "a b c d e f"), ("", "a")]
    pairs = Pairs.encode(tokenizer, rows, length=4, source_length=6)
    assert len(pairs.sources) == 1 and pairs.canvases.shape == (1, 4)
    assert pairs.keeps == [[True, False, True, True]]
    with pytest.raises(ValueError, match="no pair fits"):
        Pairs.encode(tokenizer, rows[1:], length=4, source_length=6)


def test_an_epoch_holds_every_row_once() -> None:
    pairs = Pairs([[5] * (i % 7 + 1) for i in range(53)], torch.zeros(53, 4, dtype=torch.long), [[]] * 53)
    epoch = batches(pairs, 8, seed=0, epoch=1)
    assert sorted(i for batch in epoch for i in batch) == list(range(53))
    assert epoch == batches(pairs, 8, seed=0, epoch=1) != batches(pairs, 8, seed=0, epoch=2)


def test_a_line_without_a_summary_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"document": "a", "summary": "b"}\n{"document": "a"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 of pairs.jsonl has no text in a field `summary`"):
        read_pairs([path])


def test_texts_alone_are_read_and_never_mixed_with_pairs(tmp_path: Path) -> None:
    texts, packed = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    texts.write_text("A red cat.\n\n  A dog runs.  \n", encoding="utf-8")
    packed.write_bytes(gzip.compress(b"a bird sings .\n"))
    assert read_pairs([texts, packed]) == [("", "A red cat."), ("", "A dog runs."), ("", "a bird sings .")]
    with pytest.raises(ValueError, match="some texts have a document and some have none"):
        read_pairs([texts, write_pairs(tmp_path / "pairs.jsonl.gz")])
    upper, pair = tmp_path / "C.TXT", {"document": "a", "summary": "b"}
    upper.write_text("a cow\n")
    assert read_pairs([upper]) == [("", "a cow")]
    named = tmp_path / "my.txt.jsonl"
    named.write_text(json.dumps(pair))
    assert read_pairs([named]) == [("a", "b")]
    upper.write_text(json.dumps(pair))
    with pytest.raises(ValueError, match="C.TXT holds JSON lines and is named .txt, as texts are: name it .jsonl"):
        read_pairs([upper])
    for table in ("text,label\na cow,1\n", "text\tlabel\na cow\t1\n", '"document";"summary"\na;b\n'):
        upper.write_text(table)
        with pytest.raises(ValueError, match="C.TXT holds a table and is named .txt, as texts are: write JSON lines"):
            read_pairs([upper])
    for text in ("text, prompt and all", '{"name": "a cow"}', "{a cow}"):  # the control: they hold texts
        upper.write_text(text)
        assert read_pairs([upper]) == [("", text)]
    packed.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="b.txt.gz is no whole gzip file"):
        read_pairs([packed])
    texts.write_text("\n")
    with pytest.raises(ValueError, match="hold no text: give files with a pair or a text a line"):
        train(small_run(tmp_path, train=(str(texts),)))


def test_a_text_alone_may_be_a_field(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a cow\\nsleeps", "source": 3}\n{"text": "a dog"}\n')
    assert read_pairs([path]) == [("", "a cow\nsleeps"), ("", "a dog")]
    path.write_text('{"text": "a cow"}\n{"text": null}\n')
    with pytest.raises(ValueError, match="line 2 of texts.jsonl has no text in a field `summary`: add it, or give `te"):
        read_pairs([path])
    path = path.rename(tmp_path / "texts.md")
    path.write_text("a cow\n")
    with pytest.raises(ValueError, match="line 1 of texts.md is no JSON .*, or name a file of texts .txt"):
        read_pairs([path])


def test_a_model_of_one_s_own_texts_writes_for_empty_prompts(tmp_path: Path) -> None:
    own = write_sentences(tmp_path)
    folder = train(small_run(tmp_path, train=(own,), validation=own, length=10))
    model = Summarizer.load(folder)
    assert not model.prompted
    text = "The Cat sleeps, here."
    assert model.decode(model.encode([text])) == ["the cat sleeps , here ."]  # it was trained on the form that it reads
    result = generate(folder, ["", ""], reward=lambda completions: [len(t) for t in completions], budget=8)
    assert result.texts is not None and len(result.texts) == 2
    with pytest.raises(ValueError, match="prompt 1 is given, and this model was trained without"):
        model.prepare(["", "a cat"])


def test_ctrl_c_saves_the_step_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, before = train(small_run(tmp_path, out=str(tmp_path / "whole"))), signal.getsignal(signal.SIGINT)
    update = Trainer.update

    def pressed(trainer: Trainer, batch: tuple[Tensor, Tensor, Tensor]) -> float:
        if trainer.step == 3:
            signal.raise_signal(signal.SIGINT)  # within a step, which is made whole
        return update(trainer, batch)

    monkeypatch.setattr(Trainer, "update", pressed)
    with pytest.raises(KeyboardInterrupt, match="interrupted after step 4, which is saved in"):
        train(small_run(tmp_path))
    assert signal.getsignal(signal.SIGINT) is before
    assert '"steps_done": 4' in (tmp_path / "out" / "config.json").read_text(encoding="utf-8")
    monkeypatch.undo()
    parts = train(small_run(tmp_path))
    one, other = (load_file(folder / "weights.safetensors") for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_second_ctrl_c_breaks_off_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), held_back() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked()
        signal.raise_signal(signal.SIGINT)
    with held_back() as asked:
        assert not asked()


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    config = TrainConfig(train=("a.txt",), out="out", steps=10, warmup=2, cooldown=5)
    assert [config.rate_share(step) for step in range(11)] == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0])


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = train(small_run(tmp_path, out=str(tmp_path / "whole")))
    train(small_run(tmp_path, steps=4, cooldown=0))
    parts = train(small_run(tmp_path))
    other = train(small_run(tmp_path, out=str(tmp_path / "other"), seed=1))
    weights = [load_file(folder / "weights.safetensors") for folder in (whole, parts, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_run_ends_in_a_folder_that_loads(tmp_path: Path, optimizer: str) -> None:
    folder = train(small_run(tmp_path, optimizer=optimizer, precision="float32"))
    lines = (folder / "train_curve.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "step,seconds,loss,validation_loss" and len(lines) == 3
    assert str(tmp_path) not in (folder / "config.json").read_text(encoding="utf-8")
    model = Summarizer.load(folder)
    denoiser, canvas, free = model.prepare(["red cat runs here"])
    log_p = denoiser(canvas, torch.ones(1), free, torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(model.length))
