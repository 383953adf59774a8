"""Losses against the same sums written out by hand, token by token."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from intruders.errors import NonFiniteError, SettingError
from intruders.measures import text_loss
from intruders.measures.measure_settings import LossSettings
from intruders.measures.text_loss import sliding_windows, text_losses
from intruders.models.tuned_model import OpenedModel
from tests.tiny import character_tokenizer, save_bert, save_llama

TEXTS = [
    "The first document has some words.",
    "Short",
    "",
    "x",
    "A third one, longer than a window of 16. " * 3,
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    folder = save_llama(tmp_path_factory.mktemp("llama"))
    return OpenedModel(AutoModelForCausalLM.from_pretrained(folder), character_tokenizer(), context=512)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    model = AutoModelForMaskedLM.from_pretrained(save_bert(tmp_path_factory.mktemp("bert"))).eval()
    return OpenedModel(model, character_tokenizer(around=True), context=128, is_masked=True)


@torch.no_grad()
def loss_of(opened: OpenedModel, ids: list[int], place: int, token: int) -> float:
    """``-log p`` of a token at a place, in double precision."""
    logits = opened.model(input_ids=torch.tensor([ids])).logits[0, place]
    return -float(torch.log_softmax(logits.double(), dim=0)[token])


@given(length=st.integers(0, 60), window=st.integers(2, 20), stride=st.integers(1, 20))
def test_every_token_but_the_first_is_scored_once_in_context(length: int, window: int, stride: int) -> None:
    if stride > window:
        return
    ids = list(range(length))
    scored: dict[int, int] = {}
    for piece in sliding_windows(0, ids, window, stride):
        begin = piece.ids[0]
        assert piece.ids == ids[begin : begin + len(piece.ids)]
        assert len(piece.ids) <= window
        for place in range(piece.scored_from, len(piece.ids)):
            assert begin + place not in scored
            scored[begin + place] = place
        assert piece.scored_from >= 1, "the first token of a window has nothing before it"
    firsts = {begin for begin in range(0, length, stride) if stride == window}
    assert sorted(scored) == [place for place in range(1, length) if place not in firsts]
    assert all(context >= min(token, window - stride) for token, context in scored.items())


@pytest.mark.parametrize(("window", "stride"), [(16, 8), (16, 5), (16, 16), (200, 100), (16, None)])
def test_causal_losses_are_sums_over_tokens(llama: OpenedModel, window: int, stride: int | None) -> None:
    found = text_losses(llama, TEXTS, LossSettings(window=window, stride=stride))
    step = window // 2 if stride is None else stride
    sums, counts = [], []
    for text in TEXTS:
        ids = llama.tokenizer(text)["input_ids"]
        if len(ids) < 2:
            continue
        total, count = 0.0, 0
        for place in range(1, len(ids)):
            # The first window that holds the token.
            begin = 0 if place < window else -(-(place + 1 - window) // step) * step
            if begin == place:  # nothing before it in its window
                continue
            total += loss_of(llama, ids[begin:place], -1, ids[place])
            count += 1
        sums.append(total)
        counts.append(count)
    np.testing.assert_allclose(found.sums, sums, rtol=1e-5)
    assert found.tokens.tolist() == counts
    assert found.mean == pytest.approx(sum(sums) / sum(counts), rel=1e-5)


@pytest.mark.parametrize("most", [2, 5, 40])
def test_cut_documents_are_those_of_cut_texts(llama: OpenedModel, bert: OpenedModel, most: int) -> None:
    cut = [text[:most] for text in TEXTS]  # the tokenizer makes a token of a character
    for estimate, opened in ((False, llama), (False, bert), (True, bert)):
        found = text_losses(opened, TEXTS, LossSettings(window=16, max_tokens=most, estimate=estimate))
        expected = text_losses(opened, cut, LossSettings(window=16, estimate=estimate))
        np.testing.assert_allclose(found.sums, expected.sums, rtol=1e-5)
        assert found.tokens.tolist() == expected.tokens.tolist()


def test_pseudo_loss_masks_one_token_at_a_time(bert: OpenedModel) -> None:
    found = text_losses(bert, TEXTS, LossSettings(window=16, batch_size=3))
    sums, counts = [], []
    for text in TEXTS:
        plain = bert.tokenizer(text, add_special_tokens=False)["input_ids"]
        total = 0.0
        for start in range(0, len(plain), 14):
            ids = [1, *plain[start : start + 14], 2]
            for place in range(1, len(ids) - 1):
                masked = [*ids[:place], bert.tokenizer.mask_token_id, *ids[place + 1 :]]
                total += loss_of(bert, masked, place, ids[place])
        if plain:
            sums.append(total)
            counts.append(len(plain))
    np.testing.assert_allclose(found.sums, sums, rtol=1e-5)
    assert found.tokens.tolist() == counts
    assert found.measure == "pseudo-loss"


def test_the_estimate_is_another_quantity_with_the_same_masks_for_all(bert: OpenedModel) -> None:
    one = text_losses(bert, TEXTS, LossSettings(window=32, estimate=True), seed=1)
    same = text_losses(bert, TEXTS, LossSettings(window=32, estimate=True), seed=1)
    other = text_losses(bert, TEXTS, LossSettings(window=32, estimate=True), seed=2)
    assert one.measure == "masked-15%-estimate" != text_losses(bert, TEXTS[1:2]).measure
    assert np.array_equal(one.sums, same.sums)
    assert not np.array_equal(one.sums, other.sums)
    # 15 % of each window of at most 30 tokens, but at least one.
    lengths = [len(text) for text in TEXTS if text]
    windows = [[30] * (n // 30) + ([n % 30] if n % 30 else []) for n in lengths]
    assert one.tokens.tolist() == [sum(max(1, round(0.15 * n)) for n in parts) for parts in windows]


def test_all_tokens_masked_together(bert: OpenedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_loss, "_MASKED", 1.0)
    found = text_losses(bert, ["abcde"], LossSettings(estimate=True))
    plain = bert.tokenizer("abcde", add_special_tokens=False)["input_ids"]
    masked = [1, *[bert.tokenizer.mask_token_id] * 5, 2]
    expected = sum(loss_of(bert, masked, place, token) for place, token in enumerate(plain, start=1))
    assert found.sums[0] == pytest.approx(expected, rel=1e-5)


def test_what_cannot_be_scored_is_said(llama: OpenedModel, bert: OpenedModel) -> None:
    with pytest.raises(SettingError, match="stride is 9 and window 8"):
        text_losses(llama, TEXTS, LossSettings(window=8, stride=9))
    with pytest.raises(SettingError, match="nothing to score"):
        text_losses(llama, ["", "x"])
    with pytest.raises(SettingError, match="nothing to score"):
        text_losses(bert, [""])
    own: Any = llama.model
    broken = type(own)(own.config)
    broken.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"document \d is not a number"):
        text_losses(replace(llama, model=broken), TEXTS)
