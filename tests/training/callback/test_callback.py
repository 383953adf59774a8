"""Audits during training: the right base, logged where the Trainer reports to, kept as a trace."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForMaskedLM, Trainer

from intruders.audits.audit import audit
from intruders.audits.result.summary import by_kind, update_norm
from intruders.models.loading import load_model
from intruders.training.callback.callback import IntruderCallback
from intruders.training.callback.limits import Watch
from intruders.training.callback.trace import append_to_trace, read_trace
from tests.checkpoints.models import tiny_mixtral
from tests.tiny import save_bert, save_gpt2
from tests.training.callback.trainers import (
    all_weights,
    audited,
    counts_of,
    intruders_of,
    logged,
    prepared,
    tiny_trainer,
)

METHODS = ["full", "lora", "pissa"]


@pytest.mark.parametrize(
    ("way", "method"),
    [
        *product(("knows its Trainer", "given to the Trainer", "added to it"), METHODS),
        ("knows its Trainer", "dora"),
        ("knows its Trainer", "olora"),
    ],
)
def test_counts_are_those_of_full_decompositions(way: str, method: str, llama: Path, tmp_path: Path) -> None:
    """The base is the model before the first step, also where the callback learns of it from the events alone."""
    model = prepared(llama, method)
    callback = IntruderCallback(every=2)
    trainer = tiny_trainer(model, tmp_path, callbacks=[callback] if way.startswith("given") else [])
    if way.startswith("knows"):
        callback = IntruderCallback(trainer, every=2)
    if not way.startswith("given"):
        trainer.add_callback(callback)
    trainer.train()
    expected = counts_of(llama, model)
    assert {m.name: m.intruders for m in callback.last.matrices} == expected
    assert sum(expected.values()) > 0, "the case shows something"
    trace = read_trace(tmp_path / "intruders.parquet")
    assert sorted(trace["step"].unique()) == [2, 4]
    assert trace[trace["step"] == 4]["intruder"].sum() == sum(expected.values())


@pytest.mark.parametrize("way", ["the model", "its state dict"])
def test_a_base_that_is_the_model_is_the_one_before_training(way: str, llama: Path, tmp_path: Path) -> None:
    """It changes as it trains, and every audit would find it equal to itself."""
    model = load_model(str(llama), "causal")
    base = model if way == "the model" else model.state_dict()
    found = audited(tiny_trainer(model, tmp_path), every=4, base=base)
    expected = counts_of(llama, model)
    assert {m.name: m.intruders for m in found.matrices} == expected
    assert sum(expected.values()) > 0, "the case shows something"


@pytest.mark.parametrize("way", ["frozen but for square weights", "started by PiSSA on square weights"])
def test_square_conv1d_counts_from_the_output_side(way: str, tmp_path: Path) -> None:
    """A square weight alone does not say which of its sides is the output; the model that it is in does."""
    location = save_gpt2(tmp_path / "gpt2")
    model = load_model(str(location), "causal")
    before = {name: w for name, w in all_weights(model).items() if name.endswith("attn.c_proj.weight")}
    if way.startswith("frozen"):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in before)
    else:
        config = LoraConfig(
            r=2, lora_alpha=4, target_modules=["attn.c_proj"], init_lora_weights="pissa", fan_in_fan_out=True
        )
        model = get_peft_model(model, config)
    found = audited(tiny_trainer(model, tmp_path / "out", learning_rate=0.2), every=4)
    after = all_weights(model)
    assert {matrix.name for matrix in found.matrices} == set(before)
    for matrix in found.matrices:
        w0, w = before[matrix.name].T, after[matrix.name].T
        x, y = (torch.linalg.svd(side.double(), full_matrices=False)[0] for side in (w0, w))
        cosines = (x.T @ y[:, :10]).abs().amax(dim=0)
        for vector, cosine in zip(matrix.vectors, cosines, strict=True):
            assert vector.max_cosine[0] - 1e-3 <= float(cosine) <= vector.max_cosine[1] + 1e-3


def test_stacked_experts_are_audited_in_full_fine_tuning(tmp_path: Path) -> None:
    model = tiny_mixtral()
    model.resize_token_embeddings(64)
    before = all_weights(model)
    last = audited(tiny_trainer(model, tmp_path, learning_rate=0.2), every=4)
    stacked = {name: p.detach() for name, p in model.named_parameters() if p.ndim == 3}
    assert stacked
    counts = [
        intruders_of(old, new)
        for name, tensor in stacked.items()
        for old, new in zip(before[name], tensor, strict=True)
    ]
    found = [matrix for matrix in last.matrices if "experts" in matrix.name]
    assert sorted(matrix.intruders for matrix in found) == sorted(counts)
    assert sum(counts) > 0, "the case shows something"


def test_frozen_weights_are_compared_once(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from intruders.checkpoints.pairing import open_sides

    compared = []
    compare = open_sides._has_other_weights
    monkeypatch.setattr(
        open_sides, "_has_other_weights", lambda *sides: compared.append(1) or compare(*sides)
    )
    audited(tiny_trainer(prepared(llama, "lora"), tmp_path), every=1, base=str(llama))
    assert sorted(read_trace(tmp_path / "intruders.parquet")["step"].unique()) == [1, 2, 3, 4]
    assert len(compared) == 1


def test_logged_values_are_those_of_the_audit(tmp_path: Path) -> None:
    """BERT has three modules called dense; where energies differ, a mean of shares is not the model's share."""
    location = save_bert(tmp_path / "bert")
    base = AutoModelForMaskedLM.from_pretrained(location)
    for name, parameter in base.named_parameters():
        if name.endswith("intermediate.dense.weight"):
            parameter.data *= 50  # nearly all of the energy, and no intruder
    base.save_pretrained(location)
    config = LoraConfig(r=2, lora_alpha=16, target_modules="all-linear")
    model = get_peft_model(AutoModelForMaskedLM.from_pretrained(location), config)
    trainer = tiny_trainer(model, tmp_path / "out", learning_rate=0.1)
    audited(trainer, every=4, trace=False)
    [entry] = logged(trainer)
    model.save_pretrained(tmp_path / "adapter")
    found = audit(base, str(tmp_path / "adapter"), cache=False)
    assert found.intruders > 0, "the case shows something"
    energies = {True: 0.0, False: 0.0}
    for matrix in found.matrices:
        for vector in matrix.vectors:
            energies[vector.intruder] += vector.singular_value**2
    share = energies[True] / sum(energies.values())
    assert entry["intruders/energy_share"] == pytest.approx(share, rel=1e-4)
    shares = [matrix.intruder_energy_share for matrix in found.matrices]
    assert sum(shares) / len(shares) != pytest.approx(entry["intruders/energy_share"], rel=0.01)
    key = "intruders/by_module/"
    by_module = {name.removeprefix(key): count for name, count in entry.items() if name.startswith(key)}
    assert by_module == {row.kind: row.intruders for row in by_kind(found.matrices)}
    assert {"attention.output.dense", "intermediate.dense"} <= by_module.keys()
    assert entry["intruders/total"] == found.intruders
    assert entry["intruders/vectors"] == found.vectors
    assert entry["intruders/update_frobenius"] == pytest.approx(update_norm(found.matrices), rel=1e-4)


def test_a_second_training_keeps_the_trace_of_the_first(llama: Path, tmp_path: Path) -> None:
    trace, aside = tmp_path / "trace.parquet", tmp_path / "trace-1.parquet"

    def train(out: str, **resume: Any) -> None:
        torch.manual_seed(0)  # a training that goes on has the factors A that it began with
        trainer = tiny_trainer(prepared(llama, "lora"), tmp_path / out, save_strategy="steps", save_steps=2)
        trainer.add_callback(IntruderCallback(trainer, every=1, trace=trace))
        trainer.train(**resume)

    train("first")
    before = trace.read_bytes()
    train("first", resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-2"))
    assert sorted(read_trace(trace)["step"].unique()) == [1, 2, 3, 4], "the same training goes on"
    assert not aside.exists()
    kept = trace.read_bytes()
    assert len(kept) == len(before)
    with pytest.warns(UserWarning, match=r"of an earlier training, up to step 4; it is kept as 'trace-1"):
        train("second")
    assert aside.read_bytes() == kept
    assert sorted(read_trace(trace)["step"].unique()) == [1, 2, 3, 4]
    assert not read_trace(aside).duplicated(["step", "name", "index"]).any()


def test_an_audit_leaves_a_trainers_own_metrics_beside_the_loss(llama: Path, tmp_path: Path) -> None:
    """TRL's trainers gather metrics between two calls of ``log`` and add them to the next one."""

    class Gathering(Trainer):  # type: ignore[misc]
        steps = 0

        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            self.steps += 1
            return super().training_step(*args, **kwargs)

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            super().log({**logs, "steps_since": self.steps}, *args, **kwargs)
            self.steps = 0

    trainer = tiny_trainer(prepared(llama, "lora"), tmp_path, kind=Gathering, logging_steps=4)
    audited(trainer, every=2)
    assert [entry["steps_since"] for entry in logged(trainer, "loss")] == [4]


def test_a_second_training_begins_as_if_there_had_been_none(llama: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(prepared(llama, "lora"), tmp_path, max_steps=50)
    callback = IntruderCallback(trainer, every=1, stop_above=0)
    trainer.add_callback(callback)
    trainer.train()
    assert callback.has_stopped
    assert trainer.state.global_step < 50
    callback._watch = Watch(every=100, stop_above=0)
    trainer.args.max_steps = 2
    trainer.train()
    assert callback.last.intruders > 0
    assert not callback.has_stopped, "the audit at the end stops nothing"


PAGE = Path(__file__).parents[3] / "docs" / "reference" / "files.md"


def test_the_columns_are_those_of_the_page(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {f"{name}.weight": torch.randn(8, 6, generator=generator) for name in ("up", "down")}
    change = {name: torch.randn(8, 6, generator=generator) for name in base}
    tuned = {name: weight + change[name] for name, weight in base.items()}
    append_to_trace(tmp_path / "trace.parquet", 5, audit(base, tuned, k=2, cache=False), {"up.weight": 0.25})
    trace = read_trace(tmp_path / "trace.parquet")
    [row] = [line for line in PAGE.read_text().splitlines() if line.startswith("| `intruders.parquet`")]
    assert list(trace.columns) == re.findall(r"`(\w+)`", row.split("|")[3])
    for name, rows in trace.groupby("name"):
        dense = np.linalg.svd(base[name].numpy(), compute_uv=False)
        assert rows["base_largest_value"].tolist() == pytest.approx([dense[0]] * 2, rel=1e-5)
        assert rows["update_frobenius"].tolist() == pytest.approx(
            [np.linalg.norm(change[name])] * 2, rel=1e-5
        )
    movement = trace.drop_duplicates("name").set_index("name")["a_movement"]
    assert movement["up.weight"] == 0.25
    assert np.isnan(movement["down.weight"])
