"""Mitigated adapters against the formula by dense decompositions, through PEFT's own merge.

With ``which="top"`` too, which scales one intruder of each matrix, and the audit of what was written.
"""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

import intruders
from intruders.audits.audit_settings import AuditSettings, Compute
from intruders.errors import CheckpointError, IntrudersError, NonFiniteError, PairingError, SettingError
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.remedies.shares import Interpolate
from intruders.reports.mitigation import mitigation_lines
from tests.checkpoints.models import change_config, merged_weights, saved, tiny_gpt2, tiny_llama
from tests.mitigation.hot import (
    deviation,
    hot_llama,
    medium_llama,
    merged_from,
    mitigated,
    places_of_intruders,
    scaled,
    wide_spectrum,
)
from tests.mitigation.hot import hot_sides as sides

CLOSE = 1e-3  # of the largest entry: the bar for single precision
Tensors = dict[str, Tensor]


def expected(before: Tensors, after: Tensors, scale: float) -> Tensors:
    """The formula for every two-dimensional weight that the adapter changed, embeddings left alone."""
    wanted = {}
    for name, tuned in after.items():
        same = tuned.dim() != 2 or torch.equal(tuned, before[name])
        if same or "embed" in name or "lm_head" in name or "wte" in name:
            wanted[name] = tuned.double()
        else:
            wanted[name] = scaled(tuned, places_of_intruders(before[name], tuned), scale)
    return wanted


def assert_formula(found: Tensors, before: Tensors, after: Tensors, scale: float) -> None:
    for name, tensor in expected(before, after, scale).items():
        assert deviation(found[name], tensor) < CLOSE, name


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.5])
@pytest.mark.parametrize("size", ["tiny", "medium", "wide spectrum"])
def test_merged_adapter_is_the_formula(tmp_path: Path, size: str, scale: float) -> None:
    base = tiny_llama() if size == "tiny" else medium_llama()
    base = wide_spectrum(base) if size == "wide spectrum" else base
    before, after = sides(tmp_path, base, gain=1.2)
    result = mitigated(tmp_path, scale=scale)
    assert_formula(merged_from(tmp_path / "out", base), before, after, scale)
    wanted = expected(before, after, scale)
    assert result.before.intruders > 5
    for matrix in result.matrices:
        assert matrix.rank_after <= matrix.rank_before + matrix.intruders
        old = before[matrix.name].double()
        assert matrix.update_norm_before == pytest.approx(float((after[matrix.name] - old).norm()), rel=1e-4)
        assert matrix.update_norm_after == pytest.approx(float((wanted[matrix.name] - old).norm()), rel=1e-4)


def test_a_matrix_that_the_adapter_stores_in_full_is_the_formula(tmp_path: Path) -> None:
    before, _ = sides(tmp_path, medium_llama())
    model = hot_llama(model=medium_llama(), gain=1.2, target_modules=["q_proj"], modules_to_save=["up_proj"])
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            u, v = (torch.randn(side, generator=generator) for side in parameter.shape)
            size = 1.5 * torch.linalg.matrix_norm(parameter.data, 2) / (u.norm() * v.norm())
            parameter.data += size * torch.outer(u, v)
    saved(model, tmp_path / "tuned")
    after = merged_weights(model)
    result = mitigated(tmp_path, scale=0.3)
    assert any("up_proj" in matrix.name and matrix.intruders for matrix in result.matrices)
    assert_formula(merged_from(tmp_path / "out", medium_llama()), before, after, 0.3)


def test_scale_one_changes_nothing(tmp_path: Path) -> None:
    sides(tmp_path)
    mitigated(tmp_path, scale=1)
    old, new = (load_file(tmp_path / side / "adapter_model.safetensors") for side in ("tuned", "out"))
    torch.testing.assert_close(new, old, rtol=0, atol=0)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_ranks_and_alphas_of_patterns_are_kept_unless_one_rank_is_given(
    tmp_path: Path, use_rslora: bool
) -> None:
    ranks, alphas = {"q_proj": 1, "layers.1.mlp.up_proj": 4}, {"v_proj": 7}
    patterns = {"rank_pattern": ranks, "alpha_pattern": alphas, "use_rslora": use_rslora}
    before, after = sides(tmp_path, r=3, lora_alpha=5, **patterns)
    mitigated(tmp_path, scale=0.4)
    assert_formula(merged_from(tmp_path / "out", tiny_llama()), before, after, 0.4)
    result = mitigated(tmp_path, scale=0.4, rank=14, out=tmp_path / "one")
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"]) == (14, {})
    assert result.largest_error < 1e-6
    assert_formula(merged_from(tmp_path / "one", tiny_llama()), before, after, 0.4)


def best_of_rank(rank: int, before: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
    """``W0`` and the best approximation of a change, and the relative error of that (Eckart and Young)."""
    u, s, v = torch.linalg.svd(wanted - before.double(), full_matrices=False)
    return before.double() + (u[:, :rank] * s[:rank]) @ v[:rank], float(s[rank:].norm() / s.norm())


def test_rank_keep_is_the_best_approximation(tmp_path: Path) -> None:
    before, after = sides(tmp_path, r=3, lora_alpha=6)
    result = mitigated(tmp_path, scale=0.3, rank="keep")
    wanted = expected(before, after, 0.3)
    found = merged_from(tmp_path / "out", tiny_llama())
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"], config["alpha_pattern"]) == (3, {}, {})
    for matrix in result.matrices:
        best, error = best_of_rank(3, before[matrix.name], wanted[matrix.name])
        assert deviation(found[matrix.name], best) < CLOSE
        assert matrix.relative_error == pytest.approx(error, abs=1e-4)
    assert result.largest_error > 0.01


def test_a_module_of_alpha_zero_has_no_update_to_write(tmp_path: Path) -> None:
    sides(tmp_path)
    change_config(tmp_path / "tuned", alpha_pattern={"layers.0.self_attn.q_proj": 0})
    mitigated(tmp_path, scale=0.3, rank=4)
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in written.values())
    assert not written["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"].any()


def test_conv1d_and_embeddings(tmp_path: Path) -> None:
    base = tiny_gpt2(tie_word_embeddings=False)
    before, after = sides(tmp_path, base, target_modules=["c_attn", "c_fc", "wte"], fan_in_fan_out=True)
    result = mitigated(tmp_path, scale=0.2, audit=AuditSettings(include_embeddings=True))
    found = merged_from(tmp_path / "out", base)
    names = {matrix.name for matrix in result.matrices}
    assert {"transformer.wte.weight", "transformer.h.0.attn.c_attn.weight"} <= names
    for name in names:
        turned = name.endswith(("c_attn.weight", "c_fc.weight"))
        old, new, now = (side[name].mT if turned else side[name] for side in (before, after, found))
        assert deviation(now, scaled(new, places_of_intruders(old, new), 0.2)) < CLOSE, name


def test_bfloat16_to_its_rounding(tmp_path: Path) -> None:
    base = tiny_llama().to(torch.bfloat16)
    before, _ = sides(tmp_path, base)
    model = hot_llama(model=copy.deepcopy(base)).to(torch.bfloat16)
    saved(model, tmp_path / "tuned")
    result = mitigated(tmp_path, scale=0.3)
    found = merged_from(tmp_path / "out", base)
    for name in (matrix.name for matrix in result.matrices):
        module = model.get_submodule(f"base_model.model.{name.removesuffix('.weight')}")
        a, b = (part["default"].weight.detach().double() for part in (module.lora_A, module.lora_B))
        old = before[name].double()
        tuned = old + module.scaling["default"] * b @ a
        assert deviation(found[name], scaled(tuned, places_of_intruders(old, tuned), 0.3)) < 2**-7


def test_in_memory_beside_the_original() -> None:
    model = hot_llama()
    before = tiny_llama().state_dict()
    tuned = merged_weights(copy.deepcopy(model))
    assert mitigate(model, scale=0.3, adapter_name="mitigated").after is not None
    assert model.active_adapters == ["mitigated"]
    assert_formula(merged_weights(copy.deepcopy(model)), before, tuned, 0.3)
    model.set_adapter("default")
    torch.testing.assert_close(merged_weights(model), tuned, rtol=0, atol=0)


def test_in_memory_with_another_scale_and_written_from_there(tmp_path: Path) -> None:
    model = hot_llama(gain=3.0)
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.scale_layer(0.5)
    tuned = merged_weights(copy.deepcopy(model))
    before = tiny_llama().state_dict()
    mitigate(model, scale=0.3, out=tmp_path / "out")
    assert_formula(merged_from(tmp_path / "out", tiny_llama()), before, tuned, 0.3)


def test_a_saved_audit_is_used_and_checked(tmp_path: Path) -> None:
    sides(tmp_path)
    saved(hot_llama(seed=5, gain=3.0, model=tiny_llama()), tmp_path / "other")
    audit = intruders.audit(tmp_path / "base", tmp_path / "tuned", k=3)
    audit.save(tmp_path / "audit.json")
    result = mitigated(tmp_path, scale=0, audit=tmp_path / "audit.json")
    assert result.before == audit
    assert result.after.k == 3
    with pytest.raises(PairingError, match="audit these two again"):
        mitigate(tmp_path / "base", tmp_path / "other", scale=0, audit=audit, out=tmp_path / "out2")
    # Under the same update too, whatever the remedy reads of the weights.
    saved(tiny_llama(1), tmp_path / "another")
    remedy = Interpolate(alpha=0.5)
    with pytest.raises(PairingError, match="is of other weights"):
        mitigate(tmp_path / "another", tmp_path / "tuned", remedy=remedy, audit=audit, out=tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_a_matrix_with_nan_is_named(tmp_path: Path) -> None:
    sides(tmp_path)
    audit = intruders.audit(tmp_path / "base", tmp_path / "tuned")
    model = hot_llama()
    name = next(matrix.name for matrix in audit.matrices if matrix.intruders)
    layer = model.get_submodule(f"base_model.model.{name.removesuffix('.weight')}")
    layer.lora_B["default"].weight.data[0, 0] = float("nan")
    saved(model, tmp_path / "broken")
    with pytest.raises(NonFiniteError, match=name):
        mitigate(tmp_path / "base", tmp_path / "broken", scale=0.25, out=tmp_path / "out", audit=audit)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_done_is_said_before_the_work(tmp_path: Path) -> None:
    base = saved(tiny_llama(), tmp_path / "base")
    tuned = saved(hot_llama(), tmp_path / "tuned")
    cases: list[tuple[type[IntrudersError], str, dict[str, object]]] = [
        (SettingError, "scale is -1", {"scale": -1}),
        (SettingError, "control is 'shrunk'", {"control": "shrunk"}),
        (SettingError, "which is 'first'; expected all, or top", {"which": "first"}),
        (SettingError, "split_fused", {"audit": AuditSettings(split_fused=True)}),
        (SettingError, "rank is 0", {"rank": 0}),
        (SettingError, "form is 'gguf'", {"form": "gguf"}),
        (SettingError, "out is missing", {"out": None}),
        (SettingError, "a checkpoint has none", {"form": "checkpoint", "rank": "keep"}),
        (SettingError, "is read from", {"out": tuned, "force": True}),
        (CheckpointError, "already exists; choose another folder", {"out": tuned}),
        (CheckpointError, "does not exist; make it first", {"out": tmp_path / "no" / "out"}),
    ]
    for kind, text, given in cases:
        settings = {"scale": 0.3, "out": tmp_path / "out"} | given
        with pytest.raises(kind, match=text):
            mitigate(base, tuned, **settings)  # type: ignore[arg-type]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_an_adapter_without_a_rank_of_its_own_needs_one(tmp_path: Path) -> None:
    sides(tmp_path, use_dora=True)
    said = r"^an adapter is to be written, and .* are of no low rank; write a checkpoint \(--as checkpoint\)"
    with pytest.raises(SettingError, match=said):
        mitigated(tmp_path, scale=0.3)


@pytest.mark.parametrize("kind", ["dora", "in full"])
def test_a_new_adapter_of_stated_error(tmp_path: Path, kind: str) -> None:
    before, after = sides(tmp_path, medium_llama(), use_dora=kind == "dora")
    if kind == "in full":
        after = {name: t + 0.001 * torch.randn_like(t) * (t.dim() == 2) for name, t in after.items()}
        shutil.rmtree(tmp_path / "tuned")
        tuned = medium_llama()
        tuned.load_state_dict(after)
        saved(tuned, tmp_path / "tuned")
    result = mitigated(tmp_path, scale=0.3, form="adapter", rank=8)
    found = merged_from(tmp_path / "out", medium_llama())
    errors = {matrix.name: matrix.relative_error for matrix in result.matrices} | result.cut
    assert len(errors) == 14
    wanted = expected(before, after, 0.3)
    for name, error in errors.items():
        best, its_error = best_of_rank(8, before[name], wanted[name])
        assert deviation(found[name], best) < CLOSE
        assert error == pytest.approx(its_error, rel=1e-3)


def test_a_start_that_changed_the_base_in_memory_is_refused(tmp_path: Path) -> None:
    """Its update against the model before training is not what the adapter adds to the base beside it."""
    base = type(tiny_llama()).from_pretrained(saved(tiny_llama(), tmp_path / "base"))
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa"))
    for out in (None, tmp_path / "out"):
        with pytest.raises(CheckpointError, match="the weights beneath the adapter in"):
            mitigate(model, out=out, form="adapter", scale=0.5)


def test_the_sentence_names_the_strongest_and_nothing_is_counted_after_without_the_check(
    tmp_path: Path,
) -> None:
    sides(tmp_path)
    result = mitigated(tmp_path, scale=0.3, which="top", check=False)
    lines, count = mitigation_lines(result), len(result.matrices)
    said = f"{count} intruders, the strongest of each matrix, scaled by 0.3, in {count} of"
    assert lines[0].startswith(said)
    assert not any("had no such vector" in line for line in lines)
    assert any("after not counted" in line for line in lines)
    record = json.loads((tmp_path / "out" / "intruders.json").read_text())
    assert record["after"] is record["totals"]["intruders_after"] is None
    assert record["intervention"]["settings"]["which"] == "top"


@pytest.mark.parametrize("settings", [{}, {"rank": "keep"}, {"rank": 1}, {"form": "checkpoint"}], ids=str)
def test_intruders_after_are_those_of_a_whole_audit_of_what_was_written(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Of an adapter with intruders in some of its matrices only: the others need not be audited again."""
    base = wide_spectrum(tiny_llama())
    saved(base, tmp_path / "base")
    model = hot_llama(model=base, target_modules=["q_proj", "up_proj"])
    for name, module in model.named_modules():
        if name.endswith("q_proj"):
            module.lora_B["default"].weight.data *= 1e-3
    saved(model, tmp_path / "tuned")
    result = mitigated(tmp_path, scale=0.2, compute=Compute(cache=False), **settings)
    assert 0 < len(result.matrices) < len(result.before.matrices)
    whole = intruders.audit(tmp_path / "base", tmp_path / "out", cache=False)
    assert [matrix.name for matrix in result.after.matrices] == [matrix.name for matrix in whole.matrices]
    for one, other in zip(result.after.matrices, whole.matrices, strict=True):
        assert [v.intruder for v in one.vectors] == [v.intruder for v in other.vectors]
        values = [[v.singular_value for v in matrix.vectors] for matrix in (one, other)]
        torch.testing.assert_close(*(torch.tensor(row) for row in values), rtol=1e-4, atol=1e-6)
