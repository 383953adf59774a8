"""What reports say of several matrices at once, and which matrices leave a gate open."""

import numpy as np
import pytest
import torch

import intruders
from intruders.audits.result.summary import by_kind, matrices_on_one_side
from intruders.checkpoints.pairing.pairing import SkipKind, Skipped
from intruders.checkpoints.stored.selection import AS_AUDITED, Selection
from intruders.reports.audit import render_audit
from tests.made_up import left_out


@pytest.mark.parametrize("zero", range(5))
def test_the_median_relative_update_is_of_the_matrices_that_have_one(zero: int) -> None:
    """Wherever the one of zeros comes: a comparison with NaN orders nothing."""
    generator = torch.Generator().manual_seed(3)
    names = [f"model.layers.{layer}.q_proj.weight" for layer in range(5)]
    base = {
        name: torch.randn(40, 40, generator=generator) * (layer != zero) for layer, name in enumerate(names)
    }
    direction = torch.eye(40)[:, :1] @ torch.eye(40)[1:2]
    updates = {name: s * direction for name, s in zip(names, (50.0, 3.0, 1.0, 20.0, 9.0), strict=True)}
    tuned = {name: base[name] + updates[name] for name in names}
    audit = intruders.audit(base, tuned, cache=False)
    relative = [
        np.linalg.norm(updates[name].numpy(), 2) / np.linalg.norm(base[name].numpy(), 2)
        for layer, name in enumerate(names)
        if layer != zero
    ]
    wanted = pytest.approx(np.median(relative), rel=1e-3)
    assert by_kind(audit.matrices)[0].relative_update == wanted
    fleet = intruders.audit_fleet(base, [tuned], cache=False).adapters
    assert fleet["update_relative_median"].tolist() == [wanted]
    assert f"{100 * np.median(relative):.0f}" in render_audit(audit)


# --- matrices of the layers that one model lacks, and not what another task exchanges

AUDITED = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"]


def lacking(reason: str, *names: str, selection: Selection = AS_AUDITED) -> list[str]:
    """By the reasons as an audit states them."""
    others = [
        Skipped("model.layers.0.mlp.up_proj.weight", "unchanged", SkipKind.UNCHANGED),
        Skipped("model.norm.weight", "one-dimensional"),
        *(left_out(name, reason) for name in names),
    ]
    return [skipped.name for skipped in matrices_on_one_side(AUDITED, others, selection)]


def test_matrices_of_the_layers_that_one_model_lacks() -> None:
    lost = ["model.layers.2.self_attn.q_proj.weight", "model.layers.2.mlp.up_proj.weight"]
    for reason in ("missing in tuned", "missing in base", "other shape: (4, 4) and (4, 3)"):
        assert lacking(reason, *lost) == lost
    assert lacking("missing in tuned", "model.layers.2.self_attn.k_proj.weight")
    assert not lacking("NaN or infinity in the tuned model", *lost)
    assert not lacking("unchanged", *lost)


def test_heads_of_another_task_norms_and_buffers_are_meant_to_be_absent() -> None:
    heads = [f"{n}.weight" for n in ("lm_head", "score", "pooler.dense", "cls.predictions.transform.dense")]
    assert not lacking("missing in tuned", *heads, "h.0.attn.bias")
    assert not lacking("missing in tuned", "model.layers.0.self_attn.rotary_emb.cos_cached")
    assert not lacking("other shape: (3, 16) and (2, 16)", "classifier.out_proj.weight")
    added = (
        *heads,
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.attn.bias",
        "model.layers.0.self_attn.q_norm.weight",
        "model.norm.weight",
    )
    assert not lacking("missing in base", *added)


def test_what_the_caller_leaves_out_is_not_missed() -> None:
    name = "model.layers.2.self_attn.q_proj.weight"
    for reason in ("missing in base", "missing in tuned"):
        assert not lacking(reason, name, selection=Selection(exclude=("model.layers.2.*",)))
        assert not lacking(reason, name, selection=Selection(include=("model.layers.0.*",)))


def test_a_model_without_numbered_layers_has_no_other_matrices() -> None:
    others = [left_out("fc2.weight", "missing in tuned")]
    assert matrices_on_one_side(["fc1.weight"], others, AS_AUDITED) == others
