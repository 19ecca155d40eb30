"""Linear layers: the same products by either library, torch's own wherever the other one is not meant."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from iterref import linear as module
from iterref.linear import linear

needs = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="a torch without oneDNN")


def given(rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=generator).to(dtype) for size in ((rows, 3, 48), (70, 48), (70,)))
    return x, weight, bias


def usual(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return nn.functional.linear(x, weight, bias)


@pytest.fixture(params=[True, False], ids=["onednn", "mkl"], autouse=True)
def prefers(request, monkeypatch):
    monkeypatch.setattr(module, "_prefers_onednn", lambda: request.param)
    return request.param


@needs
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_a_product_is_torch_s(rows, prefers):
    x, weight, bias = given(rows)
    with torch.inference_mode():
        found = linear(x, weight, bias)
        assert found.shape == (rows, 3, 70)
        assert torch.allclose(found, usual(x, weight, bias), atol=1e-5)
        assert torch.allclose(linear(x, weight), x @ weight.T, atol=1e-5)
        assert torch.equal(linear(x[:1], weight, bias), found[:1]) or not prefers  # three rows or all of them
        one = x[:1, :1]
        assert torch.equal(linear(one, weight, bias), usual(one, weight, bias))


@needs
def test_strides_change_nothing():
    x, weight, bias = given(40)
    with torch.inference_mode():
        expected = usual(x, weight, bias)
        for strided in (x.permute(2, 0, 1).contiguous().permute(1, 2, 0), x.repeat(2, 1, 1)[:40]):
            apart = torch.stack([bias, bias * 2], 1)[:, 0]
            assert torch.allclose(linear(strided, weight.T.contiguous().T, apart), expected, atol=1e-5)


@needs
def test_it_is_torch_s_own_in_training_in_other_precision_and_under_autocast():
    x, weight, bias = given(8)
    weight.requires_grad_()
    assert torch.equal(linear(x, weight, bias), usual(x, weight, bias))
    linear(x, weight, bias).sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        for dtype in (torch.bfloat16, torch.float64):
            other = given(8, dtype)
            assert torch.equal(linear(*other), usual(*other))
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight, bias).dtype == torch.bfloat16


def test_amd_s_processors_prefer_onednn(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    for vendor, expected in (("AuthenticAMD", True), ("GenuineIntel", False)):
        (tmp_path / "cpuinfo").write_text(f"processor: 0\nvendor_id: {vendor}\n", encoding="utf-8")
        monkeypatch.setattr(module, "Path", lambda name: tmp_path / "cpuinfo")
        assert module._prefers_onednn.__wrapped__() is expected
    monkeypatch.setattr(module, "Path", lambda name: tmp_path / "none")
    assert module._prefers_onednn.__wrapped__() is False
