"""Tiny models with every kind of PEFT adapter that is read, from every start, and the ways of giving them.

What a combination must give comes from PEFT and torch alone: the weights after ``merge_and_unload`` on a copy of the
model, and two full decompositions in double precision.
"""

import copy
import inspect
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora.config import CordaConfig, EvaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.loraga import preprocess_loraga
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from intruders.audits.audit import audit
from intruders.audits.result.audit_result import Audit
from intruders.training.callback.callback import IntruderCallback

from .models import moved, saved, tiny_gpt2, tiny_llama
from .peft_types import MADE_BY_PEFT, OPTIONS, config_of

TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "mlp.c_proj"]}
MODELS = {"llama": tiny_llama, "gpt2": tiny_gpt2}

# Settings of PEFT's LoRA under which a model can be audited.
LORA = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "lora with patterns": {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"down_proj": 9}},
    "dora": {"use_dora": True},
    "dora, rslora": {"use_dora": True, "use_rslora": True},
}
OTHERS: dict[str, Callable[[], peft.PeftConfig]] = {
    "loha": config_of("LoHa", r=2, alpha=3),
    "lokr": config_of("LoKr", r=2, alpha=3),
    "adalora": config_of("AdaLora", init_r=4, lora_alpha=5, total_step=10),
    **MADE_BY_PEFT,
    **OPTIONS,
}
_OF_ADAPTERS = r"\.ranknum|\.(?:hada_|" + "|".join(f"{kind.value.lower()}_" for kind in peft.PeftType) + ")"
# start -> whether it writes to the base's weights, as PEFT is seen to do it.
STARTS: dict[bool | str, bool] = {
    True: False,
    False: False,
    "gaussian": False,
    "eva": False,
    "orthogonal": False,
    "mica": False,
    "pissa": True,
    "pissa_niter_4": True,
    "olora": True,
    "corda": True,
    "lora_ga": True,
    "loftq": True,
}
# PEFT makes a plain LoRA out of the difference to the start. It drops DoRA's magnitude, and cannot know LoftQ's error.
_CONVERTED = ("pissa", "pissa_niter_4", "olora", "corda", "lora_ga")


def starts_of_installed_peft() -> set[bool | str]:
    """Every value of ``init_lora_weights`` that PEFT's code compares it with, or that its type lists."""
    annotation = str(peft.LoraConfig.__dataclass_fields__["init_lora_weights"].type)
    compared = re.findall(
        r"init_lora_weights(?:\.lower\(\))?(?: == |\.startswith\()\"(\w+)\"",
        inspect.getsource(LoraLayer.update_layer),
    )
    names = {*re.findall(r"'([\w\[\] ]+)'", annotation), *compared}
    return {True, False, *(name.replace("[number of iters]", "4") for name in names)}


class _OnCpu(TorchFunctionMode):
    """LoftQ moves weights to "cuda" by name; its code runs on the CPU as well."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def moved(value: Any) -> Any:
            is_cuda = isinstance(value, str | torch.device) and str(value).startswith("cuda")
            return torch.device("cpu") if is_cuda else value

        return func(*map(moved, args), **{key: moved(value) for key, value in (kwargs or {}).items()})


@dataclass
class Adapted:
    """A model after training, the weights it had before its adapter was made, and what PEFT makes of it."""

    model: nn.Module
    before: dict[str, Tensor]
    start: bool | str
    start_folder: Path | None = None  # the adapter before training, as PEFT's conversion wants it

    @cached_property
    def after_once(self) -> dict[str, Tensor]:
        """:meth:`after`, for a model that nothing trains any more."""
        return self.after()

    def after(self) -> dict[str, Tensor]:
        """PEFT's own merged weights."""
        merged = copy.deepcopy(self.model).merge_and_unload()  # type: ignore[operator]
        return {name: tensor.detach().clone() for name, tensor in merged.state_dict().items()}


def adapt(
    kind: str,
    method: str,
    start: bool | str,
    folder: Path,
    *,
    seed: int = 0,
    train: bool = True,
    **extra: Any,
) -> Adapted:
    """A tiny model, saved under ``folder/base``, with an adapter (a key of LORA or OTHERS), moved if ``train`` says so.

    The untrained adapter is saved too; ``start`` and ``extra`` are of LoraConfig.
    """
    written = MODELS[kind](seed)
    written.save_pretrained(folder / "base")
    base = type(written).from_pretrained(folder / "base")
    before = {name: tensor.detach().clone() for name, tensor in base.state_dict().items()}
    torch.manual_seed(seed + 100)
    config = OTHERS[method]() if method in OTHERS else _lora_config(kind, method, start, base, extra)
    on: AbstractContextManager[Any] = _OnCpu() if start == "loftq" else nullcontext()
    with on:
        model = peft.get_peft_model(base, config)
    if start == "eva":
        rows = torch.randint(0, 40, (8, 12))
        batches = [{"input_ids": row[None]} for row in rows]
        peft.initialize_lora_eva_weights(model, batches, show_progress_bar=False)
    found = Adapted(model, before, start)
    if start in _CONVERTED and not _is_unconvertible(config):
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(folder / "start")
        model.peft_config["default"].init_lora_weights = start
        found.start_folder = folder / "start"
    if train:
        move(model, seed)
    return found


def move(model: nn.Module, seed: int, size: float = 0.3) -> None:
    """A step of training, as random as it can be."""
    moved(model, size, seed, lambda name, parameter: parameter.requires_grad)


def own_weights(model: nn.Module) -> dict[str, Tensor]:
    """The base's weights inside a PeftModel, as they are now, under the base's names."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor.detach().clone()
        for name, tensor in model.state_dict().items()
        if not re.search(_OF_ADAPTERS, name)
    }


def intruders(base: Tensor, tuned: Tensor, k: int = 10, epsilon: float = 0.5) -> int:
    """The definition, by two full decompositions in double precision."""
    x, y = (torch.linalg.svd(weight.double(), full_matrices=False)[0] for weight in (base, tuned))
    return int(((x.T @ y[:, :k]).abs().amax(dim=0) < epsilon).sum())


def require_audit(found: Audit, kind: str, before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    """The audit is that of these weights: the matrices that changed, their counts and the size of their updates."""
    weights = {
        name for name in before if before[name].ndim == 2 and not re.search(r"embed|lm_head|wte|wpe", name)
    }
    changed = {name for name in weights if not torch.allclose(before[name], after[name], atol=1e-6)}
    audited = {matrix.name: matrix for matrix in found.matrices}
    # A start that took something out of W0 and put it back leaves rounding, which is an update and no change here.
    assert changed <= set(audited) <= weights
    for name, matrix in audited.items():
        if name not in changed:
            assert matrix.update.frobenius < 1e-4, name
            continue
        w0, w = (side[name].T if kind == "gpt2" else side[name] for side in (before, after))
        torch.testing.assert_close(
            matrix.update.frobenius, float((w - w0).double().norm()), rtol=1e-4, atol=1e-5
        )
        assert matrix.intruders == intruders(w0, w), name


def _lora_config(kind: str, method: str, start: bool | str, base: nn.Module, extra: Any) -> peft.LoraConfig:
    settings: dict[str, Any] = {
        "r": 2,
        "lora_alpha": 3,
        "target_modules": TARGETS[kind],
        "fan_in_fan_out": kind == "gpt2",
        "init_lora_weights": start,
        **LORA[method],
        **extra,
    }
    of_start: dict[bool | str, dict[str, Any]] = {
        "corda": {"corda_config": CordaConfig(corda_method="kpm")},
        "lora_ga": {"lora_ga_config": LoraGAConfig()},
        "loftq": {"loftq_config": peft.LoftQConfig(loftq_bits=4)},
        "eva": {"eva_config": EvaConfig(rho=1.0)},
    }
    config = peft.LoraConfig(**settings, **of_start.get(start, {}))
    rows = torch.randint(0, 40, (4, 12))
    if start == "corda":
        preprocess_corda(base, config, run_model=lambda: base(rows[:1]))
    elif start == "lora_ga":
        preprocess_loraga(base, config, lambda: base(rows, labels=rows).loss.backward())
        base.zero_grad()
    return config


def _is_unconvertible(config: Any) -> bool:
    return config.use_dora or (config.use_rslora and bool(config.rank_pattern or config.alpha_pattern))


def written(adapted: Adapted, folder: Path) -> Path:
    return saved(adapted.model, folder / "adapter")


def audited_after_conversion(adapted: Adapted, folder: Path) -> Audit:
    adapted.model.save_pretrained(  # type: ignore[operator]
        folder / "converted", path_initial_model_for_weight_conversion=str(adapted.start_folder)
    )
    return audit(folder / "base", folder / "converted", cache=False)


def audited_on_changed_base(adapted: Adapted, folder: Path, weight: float = 1.0) -> Audit:
    """``BASE CHANGED_BASE@w+ADAPTER@w``, the changed base being the one that is in memory."""
    changed = type(adapted.model.get_base_model()).from_pretrained(folder / "base")  # type: ignore[operator]
    own = own_weights(adapted.model)
    changed.load_state_dict(own)
    changed.save_pretrained(folder / "changed")
    tuned = f"{folder / 'changed'}@{weight}+{written(adapted, folder)}@{weight}"
    return audit(folder / "base", tuned, cache=False)


def audited_at_half_scale(adapted: Adapted, folder: Path) -> Audit:
    if STARTS[adapted.start]:
        return audited_on_changed_base(adapted, folder, 0.5)
    return audit(folder / "base", f"{written(adapted, folder)}@0.5", cache=False)


# Every way of giving an adapter and its base to an audit ...
WAYS: dict[str, Callable[[Adapted, Path], Audit]] = {
    "in memory, alone": lambda it, folder: audit(it.model, cache=False),
    "in memory, with its base": lambda it, folder: audit(it.before, it.model, cache=False),
    "folder, with its base": lambda it, folder: audit(folder / "base", written(it, folder), cache=False),
    "folder, alone": lambda it, folder: audit(None, written(it, folder), cache=False),
    "converted to a plain LoRA": audited_after_conversion,
    "changed base + adapter": audited_on_changed_base,
    "weighted sum": audited_at_half_scale,
}
# ... and to the callback, which knows the base by itself or is told it.
CALLBACKS = ("callback, alone", "callback, with its base")


def train_with_callbacks(adapted: Adapted, folder: Path) -> dict[str, Audit]:
    """A step of the Trainer, audited by a callback of each kind."""
    from transformers import Trainer, TrainingArguments

    rows = torch.randint(0, 40, (4, 12), generator=torch.Generator().manual_seed(0)).tolist()
    trainer = Trainer(
        model=adapted.model,
        args=TrainingArguments(
            output_dir=str(folder / "out"), max_steps=1, learning_rate=0.2, per_device_train_batch_size=4,
            use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=100, seed=0,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
    )  # fmt: skip
    bases = dict(zip(CALLBACKS, (None, folder / "base"), strict=True))
    callbacks = {
        way: IntruderCallback(trainer, every=1, trace=False, base=base) for way, base in bases.items()
    }
    for callback in callbacks.values():
        trainer.add_callback(callback)
    trainer.train()
    return {way: callback.last for way, callback in callbacks.items() if callback.last is not None}


def does_not_exist(method: str, start: bool | str, way: str = "") -> bool:
    """Whether PEFT makes no such thing: no MiCA with magnitudes, and no conversion but of starts that took out B A."""
    if "dora" in method and start == "mica":
        return True
    return way == "converted to a plain LoRA" and (start not in _CONVERTED or "dora" in method)


def is_refused(start: bool | str, way: str) -> bool:
    """An adapter whose start changed its base says nothing without that base, which its folder does not hold.

    PEFT repeats PiSSA and OLoRA from the original base when it loads the folder, and so does the reader.
    """
    return STARTS[start] and start not in ("pissa", "olora") and way.startswith("folder")
