"""Tests of padding: the same laws from calls of a few sizes, and one compilation a size."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import torch
from torch import Tensor

from iterref import Problem, sample
from iterref.denoiser import Denoiser, carry_over
from iterref.guidance import ClassifierFreeGuidance
from iterref.loading import load
from iterref.models.dit import Dit, DitOptions
from iterref.noise import absorbing
from iterref.padding import Padded, compile_static, padded_size
from iterref.samplers.strings import sampler_from_string
from tests.support.published import flat_config, weights, write
from tests.support.worlds import random_table

TOKENS, LENGTH = 9, 6


class Network(Denoiser):
    """A small random DiT as a masked denoiser, which notes the sizes of its calls."""

    uses_prompts = False
    time_independent = True

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.noise = absorbing(TOKENS, TOKENS - 1)
        self.network = Dit(DitOptions(TOKENS, 16, 1, 2, 8)).eval().requires_grad_(False)
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        self.sizes.append((len(x_t), int(where.sum())))
        assert len(rows) == len(t) == len(x_t)
        return carry_over(self.network(x_t, torch.zeros(1), where), x_t, where, TOKENS - 1)


def test_padded_sizes():
    assert [padded_size(n) for n in (0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 16, 17, 33, 63, 64, 65)] == [
        0, 1, 2, 3, 4, 5, 7, 8, 10, 12, 16, 20, 40, 64, 64, 80,
    ]  # fmt: skip
    sizes = {padded_size(n) for n in range(1, 10_000)}
    assert len(sizes) < 52 and all(padded_size(n) == n for n in sizes)
    assert all(n <= padded_size(n) <= 1.25 * n for n in range(1, 10_000))


def test_the_same_laws_from_calls_of_padded_sizes():
    """Every number of rows and of open positions; few sizes reach the network."""
    plain, inner, generator = Network(), Network(), torch.Generator().manual_seed(0)
    padded = Padded(inner)
    for count in range(1, 20):
        for share in (0.0, 0.02, 0.3, 1.0):
            x = torch.randint(0, TOKENS, (count, LENGTH), generator=generator)
            where = torch.rand(count, LENGTH, generator=generator) < share
            given = (x, torch.zeros(count), where, torch.zeros(count, dtype=torch.long))
            assert torch.allclose(padded(*given), plain(*given), atol=1e-6)
    asked = [sizes for sizes in inner.sizes if sizes[1]]  # what has nothing open is not asked in earnest
    rows, cells = (set(sizes) for sizes in zip(*asked, strict=True))
    assert all(padded_size(n) == n for n in rows | cells)
    assert len({size for sizes in plain.sizes for size in sizes}) > len(rows | cells)  # as without padding


def test_a_run_is_the_same_and_counts_the_same():
    canvas = torch.zeros(5, LENGTH, dtype=torch.long)

    def reward(tokens: Tensor, rows: Tensor) -> Tensor:
        return (tokens == 2).sum(1).double()

    method, network = sampler_from_string("iterref:steps=2,moves=4,tries=3"), Network()
    plain = sample(method, Problem(Network(), reward, canvas))
    padded = sample(method, Problem(Padded(network), reward, canvas))
    assert torch.equal(plain.tokens, padded.tokens) and plain.cost == padded.cost and plain.asked == padded.asked
    assert all(padded_size(size) == size for sizes in network.sizes for size in sizes)


def test_everything_else_is_the_denoiser_s_own():
    table = random_table("uniform", 3, 3, 0, 1.0)
    padded, x = Padded(table), torch.zeros(3, table.length, dtype=torch.long)
    where, rows = torch.ones_like(x, dtype=torch.bool), torch.zeros(3, dtype=torch.long)
    assert torch.allclose(padded.leave_one_out(x, where, rows), table.leave_one_out(x, where, rows))
    assert padded.noise is table.noise and padded.passes == 1
    assert not Padded(Network()).has_leave_one_out and not padded.has_probabilities
    assert Padded(Network()).time_independent and Padded(ClassifierFreeGuidance(table, table, 2.0)).passes == 2
    assert copy.deepcopy(padded).noise.vocab == pickle.loads(pickle.dumps(padded)).noise.vocab == table.noise.vocab


def test_a_model_is_compiled_for_padded_sizes_on_demand(tmp_path, monkeypatch):
    folder, asked = write(tmp_path, flat_config("mdlm", 12), weights(12)), []
    monkeypatch.setattr("torch.nn.Module.compile", lambda self, **options: asked.append(options))
    model = load(folder, tokenizer="none", compile="static")
    assert asked == [{"dynamic": False, "mode": None}]
    assert isinstance(model.denoiser, Padded) and model.length == load(folder, tokenizer="none").length


def test_torch_compiles_once_a_size():
    """Traced by torch: the same laws, and nothing is traced again for sizes that pad to the same."""
    from torch._dynamo.testing import CompileCounter

    plain, inner, count = Network(), Network(), CompileCounter()
    model = SimpleNamespace(
        denoiser=inner, device=torch.device("cpu"),
        compile=lambda dynamic, mode: inner.network.compile(dynamic=dynamic, backend=count),
    )  # fmt: skip
    static = compile_static(model)
    compiled = []
    for size, closed in ((8, 0), (9, 0), (9, 3), (10, 7)):  # 96, 108, 105 and 113 open positions
        canvas = torch.full((size, 12), TOKENS - 1)
        where = torch.arange(canvas.numel()).view(canvas.shape) >= closed
        given = (canvas, torch.ones(size), where, torch.zeros(size, dtype=torch.long))
        assert torch.allclose(static.denoiser(*given).exp(), plain(*given).exp(), atol=1e-4)
        compiled.append(count.frame_count)
    assert 0 < compiled[0] < compiled[1] == compiled[2] < compiled[3]  # for 128 open positions 12 rows are needed
