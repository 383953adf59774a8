"""Integers of any width packed into words, against whole numbers of Python."""

from __future__ import annotations

import random

import pytest
import torch

from intruders.checkpoints.quantized.packed import unpacked


@pytest.mark.parametrize("bits", range(1, 9))
def test_numbers_come_out_as_they_went_in(bits: int) -> None:
    """Also across the ends of words, which 3, 5, 6 and 7 bits do not divide, and with the sign of a word set."""
    drawn = random.Random(bits)
    rows = [[drawn.randrange(2**bits) for _ in range(41)] for _ in range(3)]
    rows.append([2**bits - 1] * 41)
    words = []
    for row in rows:
        whole = sum(number << (bits * position) for position, number in enumerate(row))
        content = whole.to_bytes(4 * -(-41 * bits // 32), "little")
        words.append(
            [int.from_bytes(content[at : at + 4], "little", signed=True) for at in range(0, len(content), 4)]
        )
    stored = torch.tensor(words, dtype=torch.int32)
    assert unpacked(stored, bits, 41).tolist() == rows
    assert unpacked(stored, bits, 7).tolist() == [row[:7] for row in rows]
