"""Every PEFT type whose weights PEFT's own code makes, from ``save_pretrained`` to the matrix.

The truth is PEFT's ``merge_and_unload`` of the whole model, bit for bit.
"""

import copy
import random
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.boft import layer as boft
from peft.tuners.lora.config import MontecloraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from intruders.audits.audit import audit
from intruders.checkpoints.adapters import peft_types
from intruders.checkpoints.adapters.by_peft import peft_at_work
from intruders.checkpoints.opening.open import open_checkpoint, open_source
from intruders.checkpoints.pairing.inspect import inspect
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.checkpoints.stored.selection import EVERY_MATRIX
from intruders.checkpoints.writing.lora_adapter import plain_lora
from intruders.errors import MissingDependencyError, PairingError
from tests.checkpoints.adapted import move, require_audit
from tests.checkpoints.models import (
    assert_tuned,
    change_config,
    differing,
    loaded,
    merged_weights,
    paired,
    reasons,
    refused,
    saved,
    tiny_gpt2,
    tiny_llama,
    tuned_of,
    with_adapter,
    with_lora,
)
from tests.checkpoints.peft_types import MADE_BY_PEFT, OPTIONS, T, config_of

Make = Callable[[], peft.PeftConfig]
ALL = MADE_BY_PEFT | OPTIONS


def trained(make: Make, seed: int = 3, dtype: torch.dtype = torch.float32) -> nn.Module:
    model = peft.get_peft_model(tiny_llama().to(dtype), make())
    move(model, seed)
    return model


def merged_from(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """What PEFT makes of the folder on a base of this dtype, merged in single precision."""
    return merged_weights(peft.PeftModel.from_pretrained(tiny_llama().to(dtype), folder).float())


def with_slow(options: list[str], *others: Any) -> list[Any]:
    """Every type and option, with the others behind it; those of ``options`` are slow."""
    return [
        pytest.param(
            make,
            *others,
            id="-".join(map(str, [name, *others])),
            marks=[pytest.mark.slow] if name in options else [],
        )
        for name, make in ALL.items()
    ]


@pytest.mark.parametrize(
    ("make", "dtype"), with_slow([], torch.float32) + with_slow([*OPTIONS], torch.bfloat16)
)
def test_weight_is_what_peft_merges(make: Make, dtype: torch.dtype, tmp_path: Path) -> None:
    base, model = tiny_llama().to(dtype), trained(make, dtype=dtype)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    folder = saved(model, tmp_path / "adapter")
    found = differing(saved(base, tmp_path / "base"), folder)
    truth = merged_from(folder, dtype)
    assert set(found) == {n for n in truth if n in before and not torch.equal(truth[n], before[n].float())}
    assert found
    for name, both in found.items():
        assert torch.equal(both.base, before[name])
        assert torch.equal(tuned_of(both), truth[name]), name


@pytest.mark.parametrize("make", with_slow([*OPTIONS]))
def test_audit_is_that_of_two_decompositions(make: Make, tmp_path: Path) -> None:
    """In memory; of a folder the weights are compared bit for bit."""
    model = trained(make)
    before = {name: tensor.clone() for name, tensor in tiny_llama().state_dict().items()}
    found = audit(saved(tiny_llama(), tmp_path / "base"), model, cache=False)
    assert found.matrices
    require_audit(found, "llama", before, merged_weights(model))


_ON_CONV1D: dict[str, dict[str, Any]] = {
    "Deft": {"r": 2},
    "FourierFT": {"n_frequency": 20},
    "Gralora": {"r": 4, "gralora_k": 2},
    "Hira": {"r": 2},
    "IA3": {"feedforward_modules": []},
    "VBLoRA": {"r": 2, "num_vectors": 8, "vector_length": 4, "topk": 2},
    "Vera": {"r": 4, "target_modules": ["c_attn", "mlp.c_proj"]},
    "WaveFT": {"n_frequency": 20},
}


@pytest.mark.parametrize("kind", _ON_CONV1D)
def test_conv1d_is_what_peft_merges(kind: str, tmp_path: Path) -> None:
    settings = {"target_modules": ["c_attn"], "fan_in_fan_out": True} | _ON_CONV1D[kind]
    model = with_adapter(config_of(kind, **settings)(), tiny_gpt2())
    found = differing(tiny_gpt2(), saved(model, tmp_path))
    truth = merged_weights(model)
    assert found
    for name, both in found.items():
        torch.testing.assert_close(tuned_of(both), truth[name].T, rtol=1e-6, atol=1e-7)


def test_every_type_of_the_installed_peft_is_read_or_refused_by_name() -> None:
    by_peft = [*peft_types.ONE_BY_ONE, *peft_types.SHARED]
    known = [*peft_types.BY_FORMULA, *by_peft, *peft_types.REFUSED]
    assert sorted(known) == sorted(kind.value for kind in PEFT_TYPE_TO_TUNER_MAPPING)
    assert {make().peft_type.value for make in ALL.values()} - {"LORA"} == set(by_peft)


REFUSED = {**peft_types.REFUSED, "LN_TUNING": "trains biases, norms", "NEW_ONE": "made with PEFT '9.1'"}


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_types_that_are_not_read_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    norm = {"base_model.model.norm.ln_tuning_layers.weight": torch.ones(2)}
    save_file(norm, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(f'{{"peft_type": "{kind}", "peft_version": "9.1"}}')
    with refused(f"^the adapter '.*' is of type {kind}, .*{REFUSED[kind]}"):
        open_sides(tiny_llama(), tmp_path)


@pytest.mark.parametrize("kind", ["adamss", "psoft", "unilora", "shira", "randlora", "lora, pissa", "boft"])
def test_random_state_is_untouched(kind: str, tmp_path: Path) -> None:
    folder = saved(trained(ALL[kind]), tmp_path)
    base = open_source(saved(tiny_llama(), tmp_path / "base"))
    states = []
    for _ in range(2):
        states.append((torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()))
        assert loaded(pair_sides(base, open_source(folder)))  # type: ignore[arg-type]
    assert states[0] == states[1]


def test_boft_starts_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(trained(MADE_BY_PEFT["boft"]), tmp_path)
    started: list[Any] = []
    monkeypatch.setattr("torch.utils.cpp_extension.load", lambda *args, **kwargs: started.append(args))
    monkeypatch.setattr(boft, "_FBD_CUDA", None)
    assert differing(tiny_llama(), folder)
    assert not started
    assert boft._FBD_CUDA is None  # a training in the same process may compile its own


def test_frod_without_its_projection_is_refused(tmp_path: Path) -> None:
    folder = saved(trained(config_of("Frod", progressbar=False, save_projection=False)), tmp_path)
    with refused(r"does not contain its projection, .* save_projection=True"):
        open_sides(tiny_llama(), folder)


# Settings that a stranger may write: (type, settings, what the error says).
HOSTILE: dict[str, tuple[str, dict[str, Any], str]] = {
    "a rank": ("hira", {"r": 10**12}, "r = '1000000000000', out of proportion"),
    "a bank of vectors": ("vblora", {"num_vectors": 10**10}, "num_vectors = '10000000000', out of proportion"),
    "a long vector": ("unilora", {"theta_d_length": 10**10}, "theta_d_length = '10000000000', out of proportion"),
    "a count of blocks": ("adamss", {"num_subspaces": 10**9}, "num_subspaces = '1000000000', out of proportion"),
    "a size in a pattern": ("hira", {"rank_pattern": {"q_proj": 10**12}}, "rank_pattern|model.* out of proportion"),
    "a negative size": ("fourierft", {"n_frequency": -5}, "PEFT cannot make the weight"),
    "another size": ("oft", {"oft_block_size": 8}, "PEFT cannot make the weight of 'model.layers.0.*size mismatch for"),
    "text for a number": ("hra", {"r": "many"}, "PEFT cannot make the weight"),
    "a pattern that never ends": ("hira", {"rank_pattern": {"(a+)+b": 2}}, "busy forever"),
    "such a pattern for targets": ("unilora", {"target_modules": "(.*.*)*x"}, "busy forever"),
    "a pattern that is none": ("osf", {"rank_pattern": {"(": 2}}, "rank_pattern = .* patterns that re compiles"),
    "no target": ("unilora", {"target_modules": ["nothing"]}, "match no weight of the base"),
    "a setting of the future": ("oft", {"twist": True}, "has 'twist', which the installed PEFT does not know"),
    "another type's name": ("oft", {"peft_type": "HRA"}, "contains no tensors of a HRA adapter"),
    # Without its extension PEFT takes the factor as 1 without a word that anyone must see.
    "more butterflies": ("boft", {"boft_n_butterfly_factor": 2}, "_factor = 2, which PEFT itself takes as 1"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "words"), HOSTILE.values(), ids=HOSTILE.keys())
def test_configs_of_strangers(kind: str, settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = change_config(saved(trained(MADE_BY_PEFT[kind]), tmp_path / "adapter"), **settings)
    base = saved(tiny_llama(), tmp_path / "base")
    with refused(words) as caught:
        differing(base, folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(11, 10),
        lambda: torch.eye(11),
        lambda: torch.randperm(101),
        lambda: torch.ones([101]),
    ],
)
def test_no_tensor_out_of_proportion_is_made_out_of_sizes(make: Callable[[], Tensor]) -> None:
    given = torch.ones(20)
    with peft_at_work("a", "it", 100):
        assert torch.outer(given, given).numel() == 400  # as large as what is there allows
        assert torch.zeros(10, 10).numel() == torch.eye(10).numel() == 100
    with (
        refused(r"weight of 'a' from 'it': its settings ask for a tensor of 1\d\d numbers"),
        peft_at_work("a", "it", 100),
    ):
        make()


@pytest.mark.parametrize("missing", ["peft", "transformers"])
def test_what_must_be_installed_is_named(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(trained(MADE_BY_PEFT["tinylora"]), tmp_path / "adapter")
    base = saved(tiny_llama(), tmp_path / "base")
    monkeypatch.setitem(sys.modules, missing, None)
    with refused(f"needs the package '{missing}', .* pip install", MissingDependencyError):
        differing(base, folder)


@pytest.mark.parametrize("kind", ["lora", "shira", "lora, bd", "lora, kasa"])
def test_a_scale_set_in_memory_counts(kind: str) -> None:
    model = trained((ALL | {"lora": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=T)})[kind])
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", 0.25)
    before = tiny_llama().state_dict()
    for name, both in differing(before, model).items():
        torch.testing.assert_close(tuned_of(both), copy.deepcopy(model).merge_and_unload().state_dict()[name])  # type: ignore[operator]


def test_inspect_counts_what_the_adapter_stores(tmp_path: Path) -> None:
    folder = saved(trained(MADE_BY_PEFT["vblora"]), tmp_path)
    stored = load_file(folder / "adapter_model.safetensors")
    (found,) = inspect(folder)
    assert found.parameters == sum(tensor.numel() for tensor in stored.values())
    assert [(row.method, row.shape) for row in found.rows] == [("vblora", (-1, -1))] * 4


@pytest.mark.parametrize(
    "settings",
    [
        {"megatron_config": {"x": 1}, "layers_pattern": "(a+)+b", "layers_to_transform": [7]},
        {"exclude_modules": "(a+)+b", "modules_to_save": ["(a+)+b"], "target_modules": "(a+)+b"},
        {"auto_mapping": {"base_model_class": "x", "parent_library": "os"}, "task_type": "CAUSAL_LM"},
    ],
)
def test_settings_that_choose_modules_do_not_reach_peft(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = saved(trained(MADE_BY_PEFT["hira"]), tmp_path)
    truth = merged_from(folder)
    change_config(folder, **settings)
    for name, both in differing(tiny_llama(), folder).items():
        assert torch.equal(tuned_of(both), truth[name])


def test_tensors_that_are_missing_are_named(tmp_path: Path) -> None:
    """PEFT itself would draw what is missing at random, and say nothing."""
    folder = saved(trained(MADE_BY_PEFT["glora"]), tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors = {
        name: tensor for name, tensor in tensors.items() if not name.endswith("0.self_attn.q_proj.glora_A.Xd")
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    with refused(r"PEFT cannot make the weight of .*: the file lacks '.*glora_A.*Xd'"):
        differing(tiny_llama(), folder)


def test_convolutions_and_embeddings_are_refused(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Linear(8, 8))
    with refused(r"of type OFT changes '0\.weight', no linear layer", PairingError):
        paired(with_adapter(peft.OFTConfig(oft_block_size=4, target_modules=["0"]), net))
    linear = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))  # where the base has a convolution
    folder = saved(with_adapter(peft.VeraConfig(r=2, target_modules=["0"]), linear), tmp_path / "vera")
    with refused(r"of type VERA changes '0\.weight', no linear layer", PairingError):
        paired(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Linear(4, 4)), folder)
    folder = saved(with_lora(target_modules=["embed_tokens"], init_lora_weights="pissa"), tmp_path / "pissa")
    with refused(r"changes 'model\.embed_tokens\.weight', no linear layer", PairingError):
        paired(tiny_llama(), folder)


@pytest.mark.parametrize("settings", [(peft.VeraConfig, {"r": 4}), (peft.TinyLoraConfig, {"r": 2, "u": 4})])
def test_a_head_that_is_tied_to_the_embeddings(settings: tuple[Any, dict[str, int]], tmp_path: Path) -> None:
    """It comes last in the order in which TinyLoRA draws."""
    make, sizes = settings
    base = tiny_llama(tie_word_embeddings=True)
    config = make(**sizes, target_modules=["lm_head", "q_proj"])
    model = with_adapter(config, tiny_llama(tie_word_embeddings=True))
    both = differing(base, saved(model, tmp_path), EVERY_MATRIX)["lm_head.weight"]
    assert torch.equal(tuned_of(both), base.lm_head.weight + model.lm_head.get_delta_weight("default"))


def test_an_order_that_is_not_known(tmp_path: Path) -> None:
    """TinyLoRA draws by the number of the module; a file of tensors has them sorted by name."""
    folder = saved(trained(MADE_BY_PEFT["tinylora"]), tmp_path / "adapter")
    weights = dict(sorted(tiny_llama().state_dict().items()))
    save_file(weights, tmp_path / "model.safetensors")
    with refused(r"in the order of the model's modules, .* has no config", PairingError):
        paired(tmp_path / "model.safetensors", folder)


def test_what_takes_long_says_so_before_it_starts(tmp_path: Path) -> None:
    def read() -> Tensor:
        raise AssertionError("read before it was said how long it takes")

    base: Any = open_source(tiny_llama())
    tensors = {
        name: replace(stored, shape=(8192, 11008), read=read) if "down" in name else stored
        for name, stored in base.tensors.items()
    }
    base = replace(base, tensors=tensors)
    slow, fast = (
        open_source(saved(trained(MADE_BY_PEFT[kind]), tmp_path / kind)) for kind in ("psoft", "miss")
    )
    words = r"PSOFT\) decomposes each of its 4 matrices in full.* about 4 minutes on two"
    with pytest.warns(UserWarning, match=words):
        pair_sides(base, slow)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair_sides(base, fast)


def test_what_was_repeated_or_left_out_is_in_the_notes(tmp_path: Path) -> None:
    words = {
        "lora, pissa": "the start 'pissa' of '.*' was repeated here",
        "psoft": "does not contain its frozen factors",
    }
    for kind, expected in words.items():
        pairing = paired(tiny_llama(), saved(trained(ALL[kind]), tmp_path / kind))
        assert any(re.search(expected, note) for note in pairing.matched), kind


VARIANTS = {name: make for name, make in OPTIONS.items() if name.startswith("lora, ")}
VARIANTS["monteclora"] = config_of("Lora", monteclora_config=MontecloraConfig())


@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS.keys())
def test_no_variant_is_taken_for_a_plain_lora_to_write_back(make: Make, tmp_path: Path) -> None:
    """New factors under its config would be loaded as something else: a start repeated, a diagonal between them."""
    assert plain_lora(saved(trained(make), tmp_path), "it", open_checkpoint(tiny_llama())) is None


@pytest.mark.parametrize(("kind", "settings"), [("OFT", {"oft_block_size": 4}), ("Vera", {"r": 4})])
def test_modules_saved_in_full_beside_a_type_made_by_peft(
    kind: str, settings: dict[str, int], tmp_path: Path
) -> None:
    make = config_of(kind, target_modules=["q_proj"], modules_to_save=["k_proj"], **settings)
    model = with_adapter(make())
    pairing = paired(tiny_llama(), saved(model, tmp_path))
    found = loaded(pairing)
    assert {name.split(".")[-2] for name in found} == {"q_proj", "k_proj"}
    assert_tuned(found, merged_weights(model))
    assert reasons(pairing)["model.layers.0.self_attn.v_proj.weight"] == "unchanged"
