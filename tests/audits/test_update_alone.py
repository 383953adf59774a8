"""An update without its base: every number beside that of a dense SVD of B A, and PEFT's reading of the patterns."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor

from intruders.audits.update_alone import compare_updates, inspect_update
from intruders.errors import CheckpointError, PairingError, SettingError
from intruders.reports.inspection import lora_config_text, overlap_lines, update_lines
from tests.checkpoints.models import randomize_adapter, tiny_llama
from tests.checkpoints.models import saved as by_peft
from tests.commands import printed, refusal, without_loading
from tests.tiny import save_lora

ROWS, COLUMNS, RANK, SCALE = 40, 24, 6, 2.0
NAMES = ("layers.0.q_proj", "layers.0.up_proj", "layers.1.q_proj")  # as safetensors sorts them


def factors(seed: int, names: tuple[str, ...] = NAMES) -> dict[str, tuple[Tensor, Tensor]]:
    """Per module B (m, r) and A (r, n), whose spectrum falls the faster the later the module comes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(ROWS, RANK, generator=generator) * torch.arange(RANK).mul(-0.4 * number).exp(),
            torch.randn(RANK, COLUMNS, generator=generator),
        )
        for number, name in enumerate(names)
    }


saved = partial(save_lora, scale=SCALE)


def dense(modules: dict[str, tuple[Tensor, Tensor]], name: str) -> np.ndarray:
    up, down = modules[name]
    return SCALE * (up.double().numpy() @ down.double().numpy())


def energy_rank(values: np.ndarray, share: float) -> int:
    total = (values**2).sum()
    return next(rank for rank in range(1, len(values) + 1) if (values[:rank] ** 2).sum() >= share * total)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 0.999, 1.0])
def test_every_number_equals_that_of_a_dense_svd(tmp_path: Path, energy: float) -> None:
    modules = factors(0)
    update = inspect_update(saved(tmp_path / "a", modules), energy)
    assert [module.name for module in update.modules] == [f"{name}.weight" for name in NAMES]
    for module, name in zip(update.modules, NAMES, strict=True):
        product = dense(modules, name)
        values = np.linalg.svd(product, compute_uv=False)[:RANK]
        shares = values / values.sum()
        assert module.shape == product.shape
        assert (module.rank, module.scale) == (RANK, SCALE)
        assert module.frobenius == pytest.approx(np.linalg.norm(product), rel=1e-12)
        assert module.spectral == pytest.approx(values[0], rel=1e-12)
        assert module.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-12)
        assert module.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-12)
        assert module.rank_in_use == pytest.approx(module.effective_rank / RANK)
        assert module.energy_rank == (RANK if energy == 1 else energy_rank(values, energy))
    squares = sum(np.linalg.norm(dense(modules, name)) ** 2 for name in NAMES)
    assert update.frobenius == pytest.approx(np.sqrt(squares))


def test_dead_modules_and_broken_ones() -> None:
    adapter = {
        "q.lora_A.weight": torch.ones(2, 4),
        "q.lora_B.weight": torch.zeros(3, 2),
        "k.lora_A.weight": torch.full((2, 4), torch.nan),
        "k.lora_B.weight": torch.ones(3, 2),
        "v.lora_A.weight": torch.eye(2, 4),
        "v.lora_B.weight": torch.eye(3, 2),
    }
    update = inspect_update(adapter)
    assert update.dead == ["q.weight"]
    assert list(update.not_measured) == ["k.weight"]
    assert "NaN" in update.not_measured["k.weight"]
    dead = update.modules[0]
    assert (dead.energy_rank, dead.effective_rank, dead.stable_rank, dead.spectral) == (0, 0, 0, 0)
    json.dumps(update.to_document(), allow_nan=False)
    text = "\n".join(update_lines(update))
    assert "1 dead module, whose update is zero: 'q.weight'" in text
    assert "contain NaN or infinity: 'k.weight'" in text


def test_module_types_are_those_of_an_audit(tmp_path: Path) -> None:
    """BERT has three kinds of module whose last name is dense."""
    places = ("attention.output.dense", "intermediate.dense", "output.dense")
    names = tuple(f"encoder.layer.{layer}.{place}" for layer in (0, 1) for place in places)
    folder = saved(tmp_path / "adapter", factors(3, names))
    for lines in (update_lines(inspect_update(folder)), overlap_lines(compare_updates(folder, folder))):
        rows = [line.split() for line in lines]
        assert [row[:2] for row in rows if row and row[0] in places] == [[place, "2"] for place in places]


def test_an_update_that_needs_the_base_is_named(tmp_path: Path) -> None:
    """DoRA's update depends on the norms of W0 + B A."""
    model = peft.get_peft_model(tiny_llama(), peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    randomize_adapter(model)
    update = inspect_update(by_peft(model, tmp_path))
    assert update.modules == []
    assert len(update.not_measured) == 2
    assert update.lora_settings() == {}


def test_peft_reads_the_patterns_as_they_are_meant(tmp_path: Path) -> None:
    """The printed text, run as Python, gives PEFT the ranks and scales that were found."""
    targets = ["q_proj", "v_proj", "down_proj"]
    model = peft.get_peft_model(
        tiny_llama(), peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, alpha_pattern={"v_proj": 10})
    )
    randomize_adapter(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name and ("down_proj" in name or ("layers.0" in name and "q_proj" in name)):
            parameter.data[:, 1:] *= 1e-3  # rank 1 in all but name
    update = inspect_update(by_peft(model, tmp_path / "old"))
    settings = eval("\n".join(lora_config_text(update.lora_settings())), {"LoraConfig": dict})
    renewed = peft.get_peft_model(tiny_llama(), peft.LoraConfig(target_modules=targets, **settings))
    by_name = {module.name.removesuffix(".weight"): module for module in update.modules}
    layers = {
        name.removeprefix("base_model.model."): layer
        for name, layer in renewed.named_modules()
        if isinstance(layer, peft.tuners.lora.LoraLayer)
    }
    assert layers.keys() == by_name.keys()
    for name, layer in layers.items():
        assert layer.r["default"] == by_name[name].energy_rank, name
        assert layer.scaling["default"] == pytest.approx(by_name[name].scale), name
    assert {module.energy_rank for module in update.modules} >= {1, 3} or len(settings["rank_pattern"]) > 1


def test_two_adapters_beside_dense_svds(tmp_path: Path) -> None:
    first, second = factors(0), factors(1)
    shared = factors(0)["layers.0.q_proj"]
    second["layers.0.q_proj"] = (shared[0] + 0.3 * second["layers.0.q_proj"][0], shared[1])
    overlap = compare_updates(saved(tmp_path / "a", first), saved(tmp_path / "b", second))
    inner = squares = others = 0.0
    for module, name in zip(overlap.modules, NAMES, strict=True):
        one, other = dense(first, name), dense(second, name)
        u, s, v = np.linalg.svd(one)
        x, t, y = np.linalg.svd(other)
        i, j = energy_rank(s, 0.99), energy_rank(t, 0.99)
        assert module.ranks == (i, j)
        assert module.cosine == pytest.approx(
            (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other), rel=1e-10
        )
        assert module.left == pytest.approx(((u[:, :i].T @ x[:, :j]) ** 2).sum() / min(i, j), rel=1e-9)
        assert module.right == pytest.approx(((v[:i] @ y[:j].T) ** 2).sum() / min(i, j), rel=1e-9)
        assert module.left_chance == pytest.approx(max(i, j) / ROWS)
        assert module.right_chance == pytest.approx(max(i, j) / COLUMNS)
        inner, squares = inner + (one * other).sum(), squares + (one**2).sum()
        others += (other**2).sum()
    assert overlap.cosine == pytest.approx(inner / np.sqrt(squares * others), rel=1e-10)
    assert "3 modules in common" in overlap_lines(overlap)[0]


def test_what_two_adapters_do_not_share(tmp_path: Path) -> None:
    first = saved(tmp_path / "a", factors(0))
    second = saved(tmp_path / "b", factors(1, ("layers.0.q_proj", "layers.7.q_proj")))
    overlap = compare_updates(first, second)
    assert overlap.only_in_first == ["layers.0.up_proj.weight", "layers.1.q_proj.weight"]
    assert overlap.only_in_second == ["layers.7.q_proj.weight"]
    alien = saved(tmp_path / "c", factors(1, ("h.0.attn",)))
    with pytest.raises(PairingError, match="no module in common"):
        compare_updates(first, alien)
    other_shape = saved(tmp_path / "d", {"layers.0.q_proj": (torch.ones(4, 1), torch.ones(1, 3))})
    with pytest.raises(PairingError, match=r"is \(40, 24\) in .* and \(4, 3\)"):
        compare_updates(first, other_shape)


def test_refusals(tmp_path: Path) -> None:
    adapter = saved(tmp_path / "a", factors(0))
    with pytest.raises(CheckpointError, match="expected one adapter"):
        inspect_update({"q.weight": torch.ones(2, 2)})
    with pytest.raises(CheckpointError, match="expected one adapter"):
        compare_updates(adapter, f"{adapter}@0.5+{adapter}")
    wrong: list[Any] = [0.0, 1.5, float("nan"), "0.9", True]
    for energy in wrong:
        with pytest.raises(SettingError, match=f"energy is {energy!r}"):
            inspect_update(adapter, energy)


def test_the_command(tmp_path: Path) -> None:
    first, second = saved(tmp_path / "a", factors(0)), saved(tmp_path / "b", factors(1))
    modules = ["transformers", "peft", "datasets", "accelerate", "plotly", "jinja2"]
    done = without_loading(modules, ["inspect", first])
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.split() == printed("inspect", first).split()
    )  # a process of its own may have another width
    assert "LoraConfig(" in done.stdout
    # A dash is standard output here too, where nothing else can be meant.
    one = str(first)
    for given in ([one, "--json"], [one, "--json", "-"], ["--json", "-", one], [one, "--json=-"]):
        document = json.loads(printed("inspect", *given))[0]["update"]
        assert document == json.loads(json.dumps(inspect_update(first).to_document()))
    document = json.loads(printed("inspect", first, second, "--json"))
    assert document == json.loads(json.dumps(compare_updates(first, second).to_document()))
    said = refusal("inspect", first, "--json", "out.json")
    assert said.startswith("error: 'out.json' was passed with --json, which takes no file here;")
    refusal("inspect", first, second, "--base", "minilm-l6")


def test_a_module_that_both_change_and_one_cannot_show_is_not_only_in_the_other(tmp_path: Path) -> None:
    """Its update does not count for the cosine either, which is that of what was measured in both."""
    good, bad = factors(0), factors(1)
    bad[NAMES[1]][1][0, 0] = torch.nan
    first, second = saved(tmp_path / "a", good), saved(tmp_path / "b", bad)
    overlap, reverse = compare_updates(first, second), compare_updates(second, first)
    for compared in (overlap, reverse):
        assert compared.only_in_first == compared.only_in_second == []
        assert list(compared.not_measured) == [f"{NAMES[1]}.weight"]
        assert "only in" not in "\n".join(overlap_lines(compared))
    both = NAMES[0], NAMES[2]
    ours, theirs = (np.concatenate([dense(side, name).ravel() for name in both]) for side in (good, bad))
    wanted = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
    assert overlap.cosine == pytest.approx(wanted, rel=1e-6)
    assert reverse.cosine == pytest.approx(wanted, rel=1e-6)
