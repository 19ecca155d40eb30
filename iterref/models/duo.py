"""Duo: uniform diffusion trained through its Gaussian dual (Sahoo et al. 2025, arXiv:2506.10892).

The denoiser and the files are UDLM's (`iterref.models.udlm`); only training differs. The vocabulary holds one token
that the tokenizer lacks (padding, 50257 beside GPT-2's): noise may write it, a text never does.

Compared with s-sahoo/duo at 7c9b498f: tests/models/test_udlm.py says how close.
"""

from __future__ import annotations

from iterref.models.family import Family
from iterref.models.udlm import load

FAMILY = Family(title="Duo", reads=("duo",), tokenizer="gpt2")

__all__ = ["FAMILY", "load"]
