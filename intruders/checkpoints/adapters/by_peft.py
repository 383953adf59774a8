"""Adapters of any PEFT type: the weight that PEFT's own code makes of the base's and the adapter's tensors.

Nothing of that work is left in the process, and nothing large is begun. There are two ways, chosen by type
(``peft_types``), because the wrong one gives other numbers without an error. Types whose tensors belong to one weight
each are made one by one, in a module tree that holds that weight alone. Types that share tensors are made in a skeleton
of all their modules, whose weights take no memory until each one's turn comes.
"""

import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache, partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import CheckpointError, IntrudersError, all_lines, missing_extra, some_of
from ...system.callers_process import random_state_kept
from ...system.notes import errors_only
from ..stored.checkpoint import StoredTensor, Tensors
from ..stored.names import Shape
from .adapter import AdaptedWeight, AdapterConfig
from .peft_types import WITH_BIAS

# Choose modules, say how to train or where to run. The modules are given by name here.
_LEFT_OUT = {
    "alora_invocation_tokens", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "feedforward_modules", "inference_mode", "layer_replication", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_bias", "lora_ga_config", "megatron_config", "megatron_core",
    "modules_to_save", "monteclora_config", "peft_type", "peft_version", "progressbar", "revision", "runtime_config",
    "runtime_offload_base_weight", "target_modules", "target_parameters", "task_type", "trainable_token_indices",
    "velora_config",
}  # fmt: skip
_PATTERNS = ("rank_pattern", "alpha_pattern", "lambda_pattern", "block_size_pattern", "n_frequency_pattern")
# Whole numbers that count nothing that is made.
_NO_SIZES = ("seed", "_key", "alpha", "scaling", "warmup", "interval")
_LEAST_BOUND = 1024  # defaults that count nothing here are below it


def peft_settings(
    config: AdapterConfig, modules: Sequence[str], largest: int, feedforward: Sequence[str] = ()
) -> Any:
    """PEFT's config object for these modules alone, by full paths: no pattern of the file reaches PEFT.

    IA3 scales those that are ``feedforward`` on the input side. CheckpointError for a size above ``largest``, an
    endless pattern, and a type or setting that the installed PEFT does not know.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = {kind.value: made for kind, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if config.peft_type not in kinds:
        raise CheckpointError(
            f"the adapter '{config.source}' is of type {config.peft_type}, which the installed PEFT does not know; "
            "expected a PEFT as new as the one that made it; install a newer one"
        )
    kind = kinds[config.peft_type]
    known = {field.name for field in fields(kind)}
    values = {key: value for key, value in config.values.items() if key not in {*_LEFT_OUT, *_PATTERNS}}
    unknown = sorted(key for key, value in values.items() if key not in known and value)
    if unknown:
        raise CheckpointError(
            f"the adapter config of '{config.source}' has {unknown[0][:60]!r}, which the installed PEFT does not know, "
            "so that its weights could be other ones; install the version of PEFT that made it"
        )
    values = {key: value for key, value in values.items() if key in known}
    anywhere = config.peft_type == "OSF"
    # By full paths, matched by us, so that PEFT's ``re`` sees no pattern.
    for key in (key for key in _PATTERNS if key in known):
        given = {name: config.pattern_value(key, name, math.nan, anywhere=anywhere) for name in modules}
        values[key] = {module: value for module, value in given.items() if not math.isnan(value)}
    _require_proportion(values, config, largest)
    own = {"target_modules": list(modules), "inference_mode": True, "feedforward_modules": list(feedforward)}
    own["progressbar"] = False  # FROD's, on the terminal
    return kind(**values, **{key: value for key, value in own.items() if key in known})


def _require_proportion(values: Mapping[str, Any], config: AdapterConfig, largest: int) -> None:
    most = max(largest, _LEAST_BOUND)
    for key, value in values.items():
        if isinstance(value, Mapping):
            _require_proportion(value, config, largest)
        elif key.endswith(_NO_SIZES) or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        elif not abs(value) <= most:
            raise CheckpointError(
                f"the adapter config of '{config.source}' has {key[:60]} = {str(value)[:40]!r}, out of proportion to "
                f"its tensors; expected {most:,} at most"
            )


# The weight that PEFT makes of the base's; in single precision at least, or in the base's own type.
Make = Callable[[Tensor, bool], Tensor]

_NAME = "default"  # of the adapter inside PEFT's layers
_ROOT = "base_model"  # under which PEFT keeps what modules share
# A multiple of the numbers in the weight's square and the file.
_ROOM, _LEAST_ROOM = 16, 2**20


def modules_of(tensors: Tensors, config: AdapterConfig) -> dict[str, dict[str, StoredTensor]]:
    """Module -> its tensors by full name, as PEFT tells them: by the last part that starts with the type's prefix."""
    mark = f".{config.peft_type.lower()}_"
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        module, is_ours, _ = name.rpartition(mark)
        # LoRA may train the bias too, which a merge into the weight does not touch.
        if is_ours and module and module != _ROOT and not name.endswith(".lora_B.bias"):
            modules.setdefault(module, {})[name] = tensor
    return modules


def updates_one_by_one(tensors: Tensors, config: AdapterConfig) -> list[AdaptedWeight]:
    modules = modules_of(tensors, config)
    if config.peft_type == "LN_TUNING":  # made for norms, which are no matrices
        modules = {
            module: own
            for module, own in modules.items()
            if any(len(tensor.shape) == 2 for tensor in own.values())
        }
    return [_single(module, own, config) for module, own in modules.items()]


def shared_updates(
    tensors: Tensors, config: AdapterConfig, modules: Mapping[str, Tensor]
) -> list[AdaptedWeight]:
    """One update for each of ``modules`` (meta tensors in the model's order), all made in one skeleton.

    Before the base is known, they have no size; none is made of these.
    """
    own = {name for tensors_of_one in modules_of(tensors, config).values() for name in tensors_of_one}
    # The rest are modules saved in full and the base's own weights beside the adapter's.
    of_method = {
        name: tensor for name, tensor in tensors.items() if name in own or name.startswith(f"{_ROOT}.")
    }
    shapes = [weight.shape for weight in modules.values()]

    @cache
    def skeleton() -> tuple[Any, nn.Module]:
        settings = peft_settings(config, list(modules), _largest(of_method, shapes))
        hollow = {  # in the memory of one number
            name: torch.zeros(1, dtype=weight.dtype).expand(*weight.shape) for name, weight in modules.items()
        }
        return settings, _with_adapter(_tree(hollow), settings, of_method)

    def merged(module: str, base: Tensor, is_widened: bool) -> Tensor:
        with peft_at_work(module, config.source, _room(of_method, shapes)):
            settings, model = skeleton()
            layer = _layer(model, module, config)
            weight = layer.get_base_layer().weight
            hollow, weight.data = weight.data, base.contiguous().clone()
            try:
                if config.peft_type == "FROD":
                    _decompose_again(layer, settings, model, of_method)
                return _merged(layer, is_widened).weight.detach()
            finally:
                weight.data = hollow
                layer.merged_adapters.clear()

    return [_weight(module, config, partial(merged, module)) for module in modules]


def _decompose_again(layer: Any, settings: Any, model: Any, tensors: Tensors) -> None:
    """FROD's layer is made of its weight: made again with the real one, then its tensors loaded again."""
    from peft import set_peft_model_state_dict

    layer.update_layer(_NAME, layer.frod_V, layer.frod_s_indices, layer.frod_s_size, config=settings)
    # As when it was made first: to single precision, where the base is in half.
    model.base_model._cast_adapter_dtype(_NAME)
    set_peft_model_state_dict(model, _read(tensors))


def _weight(module: str, config: AdapterConfig, make: Make) -> AdaptedWeight:
    return AdaptedWeight(
        f"{module}.weight",
        (-1, -1),
        None,
        None,
        config.peft_type.lower(),
        lambda base, expert: make(base, True),
        merged=lambda base: make(base, False),
    )


def _single(
    module: str, own: Tensors, config: AdapterConfig, bias: StoredTensor | None = None
) -> AdaptedWeight:
    # IA3 scales the input of feed-forward modules.
    is_on_input = any(name.endswith(".ia3_l") and tensor.shape[:-1] == (1,) for name, tensor in own.items())
    feedforward = [module] if is_on_input else []

    def layer(base: Tensor, is_widened: bool) -> nn.Linear:
        with peft_at_work(module, config.source, _room(own, [base.shape])):
            # A copy: starts and merges write to the weight.
            tree = _tree({module: base.contiguous().clone()})
            if bias is not None:
                own_bias = bias.read().to(base.device, base.dtype, copy=True)
                tree.get_submodule(module).bias = nn.Parameter(own_bias, requires_grad=False)
            settings = peft_settings(config, [module], _largest(own, [base.shape]), feedforward)
            return _merged(_layer(_with_adapter(tree, settings, own), module, config), is_widened)

    made = _weight(module, config, lambda base, is_widened: layer(base, is_widened).weight.detach())
    if config.peft_type not in WITH_BIAS or feedforward:
        return made
    if bias is None:
        return replace(made, with_bias=lambda base: _single(module, own, config, base))
    return replace(made, bias=lambda base: layer(base, True).bias.detach())


def _tree(weights: Mapping[str, Tensor]) -> nn.Module:
    root = nn.Module()
    for path, weight in weights.items():
        parent = root
        *parents, last = path.split(".")
        for name in parents:
            if name not in parent._modules:
                parent.add_module(name, nn.Module())
            parent = parent.get_submodule(name)
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        parent.add_module(last, linear)
    return root


def _with_adapter(tree: nn.Module, settings: Any, tensors: Tensors) -> nn.Module:
    from peft import get_peft_model, set_peft_model_state_dict

    model: nn.Module = get_peft_model(tree, settings, adapter_name=_NAME)
    loaded = set_peft_model_state_dict(model, _read(tensors))
    if loaded.unexpected_keys:
        raise ValueError(f"the file has {some_of(list(loaded.unexpected_keys))}, which it has no use for")
    # Missing, and under no other name the same tensor.
    state, missing = model.state_dict(keep_vars=True), set(loaded.missing_keys)
    filled = {id(tensor) for name, tensor in state.items() if name not in missing}
    absent = [name for name in loaded.missing_keys if f".{_NAME}" in name and id(state[name]) not in filled]
    if absent:
        raise ValueError(f"the file lacks {some_of(absent)}")
    return model.eval()


def _layer(model: nn.Module, module: str, config: AdapterConfig) -> Any:
    layer: Any = model.get_submodule(f"{_ROOT}.model.{module}")
    if module in config.scales:
        layer.scaling[_NAME] = config.scales[module]
    return layer


def _merged(layer: Any, is_widened: bool) -> nn.Linear:
    """The layer with the adapter in it; widened to single precision at least, so that nothing is rounded to half."""
    if layer.get_base_layer().weight.dtype == torch.float64:
        layer.double()
    elif is_widened:
        layer.float()
    layer.merge()
    linear: nn.Linear = layer.get_base_layer()
    return linear


def _read(tensors: Tensors) -> dict[str, Tensor]:
    return {
        name if name.startswith(f"{_ROOT}.") else f"{_ROOT}.model.{name}": tensor.read()
        for name, tensor in tensors.items()
    }


def _largest(tensors: Tensors, shapes: Sequence[Shape]) -> int:
    return max(size for shape in [*shapes, *(t.shape for t in tensors.values())] for size in shape)


def _room(tensors: Tensors, shapes: Sequence[Shape]) -> int:
    of_weights = max(size for shape in shapes for size in shape) ** 2
    return max(_ROOM * (of_weights + sum(prod(t.shape) for t in tensors.values())), _LEAST_ROOM)


def modules_by_target(config: AdapterConfig, names: Sequence[str]) -> list[str]:
    """The modules that ``target_modules`` means, for a type whose tensors do not name them."""
    targets = config.values.get("target_modules")
    if isinstance(targets, str):
        modules = [name for name in names if config.matches(f"({targets})$", targets, name, "target_modules")]
    else:
        ends = config.names("target_modules")
        modules = [name for name in names if any(name == end or name.endswith(f".{end}") for end in ends)]
    if not modules:
        raise CheckpointError(
            f"the adapter config of '{config.source}' has target_modules = {str(targets)[:60]!r}, which match no "
            "weight of the base; expected the base that it was trained on"
        )
    return modules


_LOCK = threading.RLock()  # the random state, the warnings and a skeleton are the process's


@contextmanager
def peft_at_work(module: str, source: str, most_numbers: int) -> Iterator[None]:
    """Let PEFT make layers and merge them; afterwards the process is as it was.

    Random state and filters of warnings are put back, so that reading an adapter moves no training's seed; nothing is
    compiled; tensors are made on the CPU. One that PEFT makes out of sizes alone has ``most_numbers`` at most. Whatever
    PEFT raises becomes a CheckpointError of one line.
    """
    # PEFT's layers draw numbers, and some types set a seed.
    with _LOCK, random_state_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # PEFT imports it where it is installed, and it has something to say of a machine without a GPU.
            with errors_only("bitsandbytes"):
                import peft.tuners.boft.layer as boft
        except ImportError:
            raise missing_extra("reading this adapter", "peft", "train") from None
        # BOFT's first layer starts a C++ and CUDA compiler, for an extension that a merge on the CPU has no use for.
        extension = getattr(boft, "_FBD_CUDA", None)
        boft._FBD_CUDA = extension or False
        try:
            with torch.no_grad(), torch.device("cpu"), _AllocatesAtMost(most_numbers):
                yield
        except IntrudersError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"PEFT cannot make the weight of '{module}' from '{source}': {all_lines(error)}; check that config "
                "and tensors are of one training, or merge it with PEFT and pass the merged model"
            ) from None
        finally:
            boft._FBD_CUDA = extension


class _AllocatesAtMost(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuse a tensor made out of sizes alone (zeros, eye, ...), which a config may say, before it is there."""

    def __init__(self, most_numbers: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most_numbers = most_numbers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        if not any(isinstance(value, torch.Tensor) for value in (*args, *keywords.values())):
            shapes = [value for value in args if isinstance(value, list | tuple)]
            sizes = shapes[0] if shapes else [value for value in args if not isinstance(value, bool)]
            numbers = prod(max(abs(size), 1) for size in sizes if isinstance(size, int))
            is_square = str(func).startswith("aten.eye.") and len(sizes) == 1
            numbers = numbers**2 if is_square else numbers
            if numbers > self._most_numbers:
                raise MemoryError(f"its settings ask for a tensor of {numbers:,} numbers")
        return func(*args, **keywords)
