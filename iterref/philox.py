"""Philox: the counter-based generator that all random numbers come from, its keys and its numbers.

    block(key, counter) = Philox4x32-10,   key 64 bits,   counter 128 bits;      four words of 32 bits
    u = (53 bits of two of the words) / 2^53

On a host the words are made by numpy, which begins a small operation sooner than torch does, in two lanes at once and
in as few operations as there can be; on a device by torch. Both give the same bits.

Salmon, Moraes, Dror, Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", section 3.3 and table 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from operator import index as as_int
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WORD = 2**32
MASK = WORD - 1
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
# A draw never has this pair number, so the blocks that make new keys and the blocks that make numbers are disjoint.
KEY_PAIR = MASK
INT_ITEM, TEXT_ITEM = 0, 1
# Where the halves of a 64-bit product lie in memory.
LOW, HIGH = (0, 1) if sys.byteorder == "little" else (1, 0)
# The multipliers of the lanes (c0, c2), and what is added to the key in every round.
FACTORS = np.array(MULTIPLIERS, dtype=np.uint64)
STEPS = np.array([[step * k & MASK for step in WEYL] for k in range(ROUNDS)], dtype=np.uint32)

Words = NDArray[np.uint32]
Path = tuple[int | str, ...]


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
    """The four output words of Philox4x32-10 for four counter words and two key words, each in [0, 2^32).

    Words are Python ints, or int64 tensors of shapes that broadcast. A product of two words overflows int64 by
    wrapping, which keeps all 64 bits; words are cut back to 32 bits only where the next product needs it."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product_0, product_1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0 = ((product_1 >> 32) ^ c1 ^ k0) & MASK
        c2 = ((product_0 >> 32) ^ c3 ^ k1) & MASK
        c1, c3 = product_1, product_0
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1 & MASK, c2, c3 & MASK


def philox_host(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any]) -> tuple[Words, Words, Words, Words]:
    """As `philox`, for numpy arrays and ints. The key's words may be arrays, one a counter, too."""
    lanes, others = _lanes(counter, key)
    return lanes[0], others[0], lanes[1], others[1]


def _lanes(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any]) -> tuple[Words, Words]:
    """The first and third, and the second and fourth, of the words that `philox_host` gives, (2, *) each."""
    shape = np.broadcast(*counter, *key).shape
    ones = (1,) * len(shape)
    lanes, others = np.empty((2, *shape), np.uint32), np.empty((2, *shape), np.uint32)
    lanes[0], others[0], lanes[1], others[1] = counter
    keys = np.empty((2, *np.broadcast(*key).shape), np.uint32)
    keys[0], keys[1] = key
    keys = keys.reshape(2, *ones[: len(shape) - keys.ndim + 1], *keys.shape[1:])  # the rounds' axis comes before it
    factors = FACTORS.reshape(2, *ones)
    products = np.empty((2, 2, *shape), np.uint64)  # this round's, and the one before, which `others` looks into
    for k, rounded in enumerate(STEPS.reshape(ROUNDS, 2, *ones) + keys):
        product = products[k % 2]
        np.multiply(lanes, factors, out=product)
        halves = product.view(np.uint32).reshape(2, *shape, 2)[::-1]
        np.bitwise_xor(halves[..., HIGH], others, out=lanes)
        lanes ^= rounded
        others = halves[..., LOW]
    return lanes, others


def derive(key: tuple[int, int], item: int | str) -> tuple[int, int]:
    """A new key (two words) from a key and an item: the item's 64 bits are encrypted under the old key.

    A string counts as the 8 bytes of its BLAKE2b digest (UTF-8, little-endian), an int as its two's complement; the
    kind is part of the block, so that 5 and any string differ. Raises `ValueError` for an int outside 64 bits."""
    word_0, word_1, _, _ = philox(_block(item), key)
    return word_0, word_1


def derive_all(key: tuple[Any, ...], items: Sequence[int | str]) -> tuple[Words, Words]:
    """As `derive`, of several items: keys (*, K) from keys (*, K) or (*, 1), words as arrays."""
    word_0, word_1, _, _ = philox_host(tuple(np.array([_block(item) for item in items]).T), (key[0], key[1]))
    return word_0, word_1


def doubles(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any], halves: int) -> Any:
    """Uniform numbers (*, halves) in [0, 1) of blocks (*): the 32 bits of one word above 21 bits of the next.

    Counter words are int64 tensors, the numbers too, or arrays of a host and ints; the key's are ints or arrays."""
    if not isinstance(counter[-1], Tensor):
        lanes, others = _lanes(counter, key)
        numbers = lanes[:halves] * 2.0**-32  # both terms and their sum are exact
        numbers += (others[:halves] >> 11) * 2.0**-53
        return np.moveaxis(numbers, 0, -1)
    if isinstance(key[0], np.ndarray):
        there = torch.from_numpy(np.stack(key).astype(np.int64)).to(counter[-1].device)
        key = there[0], there[1]
    words = philox(counter, key)
    pairs = zip(words[0 : 2 * halves : 2], words[1 : 2 * halves : 2], strict=True)
    return torch.stack([(high << 21) | (low >> 11) for high, low in pairs], dim=-1).double().mul_(2.0**-53)


@lru_cache(maxsize=4096)
def _block(item: int | str) -> tuple[int, int, int, int]:
    """The block that makes the key of an item."""
    if isinstance(item, str):
        kind, value = TEXT_ITEM, int.from_bytes(blake2b(item.encode(), digest_size=8).digest(), "little")
    else:
        kind, value = INT_ITEM, as_int(item)
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"a fork key must fit in 64 bits, got {value}: use a string for longer keys")
    return kind, KEY_PAIR, value & MASK, (value >> 32) & MASK
