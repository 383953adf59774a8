"""Shows what an audit of a real small model costs: SmolLM2-135M with a LoRA adapter, 210 matrices, in memory.

The adapter is one given with ``--adapter``, or two are made by code: random ones of rank 8, one as weak as common
fine-tuning leaves them, one strong enough for many intruders. The engine runs as ``intruders.audit``, with reading,
hashing and writing the cache in the time.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import intruders
from intruders.audits.base_cache import DiskCache
from intruders.audits.result.audit_result import Audit
from intruders.models.base_model import base_model_location
from intruders.models.quiet import quiet_transformers

from .inputs import spectral_norm
from .measure import EPSILON, REPEATS, K, Row, costed, require_equal, timed
from .reference import peft_counts, reference_count

MODEL = "smollm2-135m"
RANK = 8
# Adapted layers of the model's 30 in quick runs.
QUICK_LAYERS = 4
_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class RandomAdapter:
    """Gaussian factors, scaled so that an update's spectral norm is this share of its base matrix's."""

    name: str
    first: float  # in the first adapted matrix; growing evenly to
    last: float

    def __str__(self) -> str:
        return (
            f"random rank-{RANK} adapter, spectral norm of B A {self.first:g} to {self.last:g} of the base's"
        )


RANDOM_ADAPTERS = (RandomAdapter("weak adapter", 0.01, 0.07), RandomAdapter("strong adapter", 0.05, 0.8))


def small_model_rows(folder: Path | None, layers: int | None) -> Iterator[Row]:
    """One row an adapter: that of the folder, or the random ones, on the first ``layers`` layers (None: on all)."""
    if folder is not None:
        yield _row_of(_loaded_model(folder), folder.name, f"adapter '{folder}'")
        return
    for adapter in RANDOM_ADAPTERS:
        yield _row_of(random_model(adapter, layers), adapter.name, str(adapter))


def _row_of(model: nn.Module, label: str, description: str) -> Row:
    """The whole model judged by the engine, the reference and PEFT.

    Raises:
      CountsDifferError: they disagree on any one matrix.
    """
    layers = dict(_lora_layers(model))
    elements = sum(layer.get_base_layer().weight.numel() for layer in layers.values())
    with tempfile.TemporaryDirectory() as folder:
        cold, first = costed(_audit_with(model, folder, fresh=True), elements, REPEATS)
        cached, again = costed(_audit_with(model, folder, fresh=False), elements, REPEATS)
    with tempfile.TemporaryDirectory() as folder:
        base, include = base_of(model)
        decomposing, _ = timed(lambda: intruders.prepare(base, out=folder, include=include, device="cpu"))
        whole, in_coordinates = costed(_audit_with(model, folder, fresh=False), elements, REPEATS)
    found = {_module_name(matrix.name): matrix.intruders for matrix in first.matrices}
    reference, by_reference = _reference_counts(layers)
    peft, by_peft = timed(lambda: peft_counts(model, K, EPSILON))
    for name, count in by_reference.items():
        require_equal(name, {"engine": found[_module_name(name)], "reference": count, "PEFT": by_peft[name]})
    counts = {"nothing cached": first.intruders, "base cached": again.intruders}
    require_equal(label, counts | {"base decomposed": in_coordinates.intruders})
    certificates = Counter(vector.certificate for matrix in first.matrices for vector in matrix.vectors)
    return Row(
        "SmolLM2-135M",
        label,
        None,
        elements,
        first.vectors,
        first.intruders,
        reference,
        peft,
        cold,
        cached,
        whole,
        decomposing,
        dict(certificates),
        f"SmolLM2-135M, {label}: {description}; {len(layers)} matrices, {cold.factorizations} Cholesky factorizations; "
        "ours is intruders.audit, with hashing and the cache on disk.",
    )


def _reference_counts(
    layers: dict[str, Any], clock: Callable[[], float] = time.perf_counter
) -> tuple[float, dict[str, int]]:
    """Seconds of the decompositions alone, and intruders by module name."""
    seconds, counts = 0.0, {}
    for name, layer in layers.items():
        base = layer.get_base_layer().weight.data
        tuned = base + layer.get_delta_weight("default").data

        def count(base: torch.Tensor = base, tuned: torch.Tensor = tuned) -> int:
            return reference_count(base, tuned, K, EPSILON)

        taken, counts[name] = timed(count, clock)
        seconds += taken
    return seconds, counts


def _audit_with(model: nn.Module, folder: str, fresh: bool) -> Callable[[], Audit]:
    def run() -> Audit:
        store = DiskCache(folder)
        if fresh:
            store.clear()
        return intruders.audit(model, k=K, epsilon=EPSILON, cache=store, device="cpu")

    return run


def _base_model() -> Any:
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(base_model_location(MODEL), dtype=torch.float32)


def base_of(model: nn.Module) -> tuple[Any, list[str]]:
    """The model before its adapter, and the names of the weights that the adapter changes."""
    return _base_model(), [f"{_module_name(name)}.weight" for name, _ in _lora_layers(model)]


def reference_of(model: nn.Module, clock: Callable[[], float]) -> tuple[float, int]:
    """Seconds of two decompositions of each matrix, and the intruders by them."""
    seconds, counts = _reference_counts(dict(_lora_layers(model)), clock)
    return seconds, sum(counts.values())


def _loaded_model(folder: Path) -> nn.Module:
    from peft import PeftModel

    model: nn.Module = PeftModel.from_pretrained(_base_model(), str(folder))
    return model


def random_model(adapter: RandomAdapter, layers: int | None) -> nn.Module:
    """The PeftModel with seeded Gaussian factors in place of PEFT's zeros."""
    from peft import LoraConfig, get_peft_model

    chosen = None if layers is None else list(range(layers))
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=_LINEAR, layers_to_transform=chosen)
    with quiet_transformers():
        model: nn.Module = get_peft_model(_base_model(), config)
    generator = torch.Generator().manual_seed(0)
    adapted = [layer for _, layer in _lora_layers(model)]
    with torch.no_grad():
        for index, layer in enumerate(adapted):
            left, right = layer.lora_B["default"].weight, layer.lora_A["default"].weight
            left.copy_(torch.randn(left.shape, generator=generator))
            right.copy_(torch.randn(right.shape, generator=generator))
            share = adapter.first + (adapter.last - adapter.first) * index / (len(adapted) - 1)
            norm = _largest_singular_value(layer.get_base_layer().weight.data, generator)
            left *= share * norm / spectral_norm(left, right)
    return model


def _lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora.layer import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _module_name(name: str) -> str:
    return name.removeprefix("base_model.model.").removesuffix(".weight")


def _largest_singular_value(weight: torch.Tensor, generator: torch.Generator) -> float:
    """By power iteration: enough for a norm that is stated to one digit."""
    row = torch.randn(1, weight.shape[1], generator=generator)
    for _ in range(30):
        row = torch.nn.functional.normalize(row @ weight.mT @ weight, dim=-1)
    return float((row @ weight.mT).norm())
