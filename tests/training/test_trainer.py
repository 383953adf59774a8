"""The loss of a step: the mean over the targets of all its batches, from the logits that are learned alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    TrainingArguments,
)

from intruders.data.load_task import load_task
from intruders.models.encoding import IGNORED, PadRight
from intruders.training.finetune import finetune
from intruders.training.trainer import (
    TargetTrainer,
    autocast_as_trained,
    with_learned_logits,
)
from tests.json_lines import write_rows
from tests.tiny import character_tokenizer, save_bert, save_llama
from tests.training.tiny_runs import config_of, without_dropout

# Rows of a batch, batches of a step: 14 rows, and the last batch of four has two.
SPLIT = [(14, 1), (4, 4), (2, 8)]


def first_step(base: Path, out: Path, **settings: Any) -> tuple[float, float]:
    given = {"method": "full", "steps": 1, "max_train_samples": 14, "max_eval_samples": 2, "lr": 1e-4}
    log = finetune(config_of(base, out, **(given | settings))).log[0]
    return log["loss"], log["grad_norm"]


@pytest.mark.parametrize("kind", ["bert", "llama", "completions"])
def test_a_step_is_the_same_however_many_batches_it_has(kind: str, tmp_path: Path) -> None:
    base = without_dropout(save_bert(tmp_path / "m")) if kind == "bert" else save_llama(tmp_path / "m")
    rows = [{"t": ("good " if i % 3 else "bad ") + "x" * (i % 7), "l": str(min(i % 3, 1))} for i in range(60)]
    classes = write_rows(tmp_path / "classes.jsonl", rows)
    task = {} if kind == "completions" else {"task": f"{classes}?text=t&label=l"}
    (whole, *others) = [
        first_step(base, tmp_path / f"{size}", batch_size=size, gradient_accumulation_steps=batches, **task)
        for size, batches in SPLIT
    ]
    for other in others:
        assert other == pytest.approx(whole, rel=1e-4)  # single precision, in another order


def save_bart(folder: Path) -> Path:
    tokenizer = character_tokenizer()
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, max_position_embeddings=128, dropout=0.0, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=48,
        encoder_layers=2, encoder_attention_heads=4,
    )  # fmt: skip
    BartForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_a_decoder_that_does_not_shift_its_labels_learns_the_next_token(kl: float, tmp_path: Path) -> None:
    """By hand from the base: nats per token of the row itself and end-of-sequence, given all before them."""
    base = save_bart(tmp_path / "bart")
    file = write_rows(tmp_path / "rows.jsonl", [{"p": f"{i:02}", "c": "abc"[i % 3]} for i in range(30)])
    task = f"{file}?prompt=p&completion=c"
    settings = {"train_all": True, "max_train_samples": None, "batch_size": 64, "kl_to_base": kl}
    loss, norm = first_step(base, tmp_path / "run", task=task, **settings)
    rows = load_task(task).train
    tokenizer = character_tokenizer()
    ids = torch.tensor([[*tokenizer.encode(row.text + row.target), 2] for row in rows])  # (rows, 4)
    model = AutoModelForCausalLM.from_pretrained(base)
    log_p = model(input_ids=ids).logits.log_softmax(-1)
    wanted = -log_p[:, 1:3].gather(-1, ids[:, 2:, None]).mean()
    wanted.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    assert norm == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_it_is_the_own_loss_of_a_model_that_shifts_its_labels(tmp_path: Path) -> None:
    """That of a router, which spreads tokens over experts, is added as transformers adds it."""
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}
    model = MixtralForCausalLM(
        MixtralConfig(**small, **experts, num_key_value_heads=2, vocab_size=64, router_aux_loss_coef=0.5)
    )
    rows = [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORED, IGNORED, 7, 8, 9]},
        {"input_ids": [9, 8, 7], "labels": [IGNORED, 8, 7]},
    ]
    batch = PadRight(0)(rows)
    args = TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to="none")
    trainer = TargetTrainer(model=model, args=args, train_dataset=rows)
    trainer.current_gradient_accumulation_steps = 1
    gradients = []
    for loss_of in (
        lambda: trainer.compute_loss(model, batch, num_items_in_batch=torch.tensor(5)),
        lambda: model(**batch, num_items_in_batch=torch.tensor(5)).loss,
    ):
        model.train().zero_grad()
        loss = loss_of()
        loss.backward()
        gradients.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    (ours, of_ours), (own, of_own) = gradients
    assert ours == pytest.approx(own, rel=1e-6)
    torch.testing.assert_close(of_ours, of_own, rtol=1e-4, atol=1e-7)


def test_logits_are_asked_where_a_token_is_learned_and_all_where_none_is() -> None:
    """A prompt of four with three learned tokens, and one of two with two and padding."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 0, 0, 0]])
    labels = torch.tensor([[IGNORED] * 4 + [9, 10, 11], [IGNORED] * 2 + [14, 15] + [IGNORED] * 3])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}
    # Predicted at the position before: 3, 4, 5 of the first row, and 1, 2 of the second.
    assert with_learned_logits(batch)["logits_to_keep"].tolist() == [1, 2, 3, 4, 5]
    assert "logits_to_keep" not in with_learned_logits(batch | {"labels": torch.full((2, 7), IGNORED)})


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_look_has_the_precision_of_the_training(precision: str, dtype: torch.dtype) -> None:
    with autocast_as_trained(precision):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype is dtype
