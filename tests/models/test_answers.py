"""Answers as the model writes them, and whether they are right."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from intruders.data.task import Example, Task
from intruders.models import answers
from intruders.models.answers import (
    Answer,
    Graded,
    generated_answers,
    graded,
    is_right,
    outcomes_until_decided,
)
from intruders.models.loading import load_model
from intruders.models.tuned_model import OpenedModel
from intruders.training.finetune import finetune
from intruders.training.finetune_config import FinetuneConfig
from tests.tiny import character_tokenizer, save_bert, save_llama

ROWS = [Example(f"{i} and {i}: ", f"{2 * i}") for i in range(12)]


def test_an_answer_is_right_if_its_last_number_is() -> None:
    task = Task("numbers", "causal", "final-number", [], [], [])
    for answer, target, expected in (
        (r"is: \frac{1}{2}", "0.5", True),
        (".5", "5", False),
        ("no", "no", False),
    ):
        assert is_right(task, Example("", target), answer) is expected


def test_what_a_pass_predicts_is_what_generation_gives(llama: Path, tmp_path: Path) -> None:
    """The short cut of scoring against the plain way: generate everything and compare."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"p": "{row.text}", "c": "{row.target}"}}\n' for row in ROWS))
    run = finetune(
        FinetuneConfig(
            base=str(llama), task=f"{rows}?prompt=p&completion=c&validation={rows}", out=str(tmp_path / "run"),
            method="full", lr=5e-3, steps=60, precision="fp32", save_steps=1000, max_new_tokens=8,
        )
    )  # fmt: skip
    model, tokenizer = load_model(str(run.path), "causal"), character_tokenizer()
    task = Task("rows", "causal", "exact", ROWS, ROWS, [])
    opened = OpenedModel(model, tokenizer, 512)
    found = graded(opened, task, ROWS, batch_size=5).right
    plain = [_written_by_hand(model, tokenizer, row, 20) for row in ROWS]
    answers = generated_answers(opened, ROWS, batch_size=5)
    assert [answer.text for answer in answers] == plain
    assert found == [text.strip() == row.target for text, row in zip(plain, ROWS, strict=True)]
    assert any(found), "the case shows something"


OWN_SETTINGS: list[dict[str, Any]] = [
    {"do_sample": True, "temperature": 0.7, "num_beams": 4, "num_return_sequences": 3},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 2.0, "encoder_repetition_penalty": 2.0},
    {"min_new_tokens": 30, "max_length": 20, "max_time": 1e-5},
    {"suppress_tokens": list(range(20, 60)), "begin_suppress_tokens": list(range(3, 80))},
    {"bad_words_ids": [[token] for token in range(3, 50)], "sequence_bias": [[[12], 5.0]]},
    {"guidance_scale": 2.0},
    {"return_dict_in_generate": True, "output_scores": True},
    {"stop_strings": ["1"]},
    {"prompt_lookup_num_tokens": 3},
]


@pytest.mark.parametrize("own", OWN_SETTINGS, ids=lambda own: next(iter(own)))
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "peft"])
def test_an_answer_is_greedy_whatever_is_set(own: dict[str, Any], wrapped: bool, tmp_path: Path) -> None:
    """Many models have such settings in their generation_config.json; the truth is a loop over the largest logit."""
    folder = save_llama(tmp_path / "llama")
    model: Any = load_model(str(folder), "causal")
    tokenizer = character_tokenizer()
    greedy = [_written_by_hand(model, tokenizer, row, 18) for row in ROWS[:4]]
    settings = {"eos_token_id": 2, **own}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    model = load_model(str(folder), "causal")
    if wrapped:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    answers = generated_answers(OpenedModel(model, tokenizer, 512), ROWS[:4], max_new_tokens=18)
    assert [answer.text for answer in answers] == greedy
    kept = model.generation_config.to_dict()
    assert {name: kept[name] for name in own} == own, "what the model would generate with is left as it was"


def _minimax(tokens: int) -> Any:
    from transformers import MiniMaxConfig, MiniMaxForCausalLM

    config = MiniMaxConfig(
        vocab_size=tokens, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_local_experts=2, num_experts_per_tok=1, block_size=16,
        layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    return MiniMaxForCausalLM(config)


def _rwkv(tokens: int) -> Any:
    from transformers import RwkvConfig, RwkvForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}
    return RwkvForCausalLM(RwkvConfig(vocab_size=tokens, eos_token_id=2, **sizes))


@pytest.mark.parametrize("make", [_minimax, _rwkv])
def test_an_answer_of_a_model_that_reads_padding_does_not_depend_on_other_prompts(make: Any) -> None:
    tokenizer = character_tokenizer()
    torch.manual_seed(0)
    model = make(len(tokenizer)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 6  # so that a text matters for its next token
    rows = [Example("12 + 30 = " * (1 + number % 3), "1") for number in range(6)]
    greedy = [_written_by_hand(model, tokenizer, row, 17) for row in rows]
    answers = generated_answers(OpenedModel(model, tokenizer, 256), rows, max_new_tokens=17)
    assert [answer.text for answer in answers] == greedy


def _written_by_hand(model: Any, tokenizer: Any, row: Example, most: int) -> str:
    prompt, written = tokenizer(row.text)["input_ids"], list[int]()
    while len(written) < most:
        logits = model(input_ids=torch.tensor([prompt + written])).logits[0, -1]
        if int(logits.argmax()) == 2:
            break
        written.append(int(logits.argmax()))
    text: str = tokenizer.decode(written, skip_special_tokens=True)
    return text


def test_classes_follow_the_models_own_order_of_labels(tmp_path: Path) -> None:
    model: Any = load_model(str(save_bert(tmp_path)), "classification", ["b", "a"])
    model.classifier.weight.data.zero_()
    model.classifier.bias.data.copy_(torch.tensor([1.0, 0.0]))  # always output 0, which is "b"
    rows = [Example("x", "a"), Example("yy", "b"), Example("z", "b")]
    task = Task("t", "classification", "class", rows, rows, [])
    opened = OpenedModel(model, character_tokenizer(around=True), 128)
    named = graded(replace(opened, labels=["b", "a"]), task, rows)
    assert named.right == [False, True, True]
    assert graded(opened, task, rows).right == [True, False, False]


EXAMPLES = [Example(text=f"question {number}:", target=f" {number}.") for number in range(40)]
TASK = Task(name="numbers", kind="causal", score="final-number", train=[], validation=EXAMPLES, test=[])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of generated answers. The first ten targets are settled; of the others every third answer is right."""
    counts: list[int] = []

    def targets(*given: Any) -> Graded:
        return Graded([0.0] * 40, [1] * 40, None, [number < 10 for number in range(40)])

    def generated(opened: Any, examples: list[Example], **options: Any) -> list[Answer]:
        counts.append(len(examples))
        numbers = [int(example.target.strip(" .")) for example in examples]
        return [Answer(f" {number if number % 3 == 0 else 99}.", has_ended=True) for number in numbers]

    monkeypatch.setattr(answers, "_targets", targets)
    monkeypatch.setattr(answers, "generated_answers", generated)
    return counts


def reached(accuracy: float) -> list[bool | None]:
    return outcomes_until_decided(OpenedModel(nn.Identity(), None, 64), TASK, EXAMPLES, accuracy=accuracy)


def test_what_is_reached_has_all_outcomes_and_what_cannot_be_is_given_up(asked: list[int]) -> None:
    # 10 settled, and 12, 15, ..., 39.
    expected = [number < 10 or number % 3 == 0 for number in range(40)]
    assert sum(expected) == 20
    assert reached(0.5) == expected
    assert asked == [16, 14]
    # Of the first 16, from 10 to 25, 5 are right and 11 wrong: at best 29 of 40.
    right = reached(0.75)
    assert asked == [16, 14, 16]
    assert right == [*expected[:26], *[None] * 14]
    assert None not in reached(29 / 40)
