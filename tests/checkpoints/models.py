"""Tiny models and adapters for the readers' tests: random, seeded, and made by the libraries themselves."""

import copy
import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from intruders.checkpoints.opening.open import Source
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.checkpoints.pairing.pairing import Pairing
from intruders.checkpoints.stored.selection import AS_AUDITED, Selection
from intruders.errors import CheckpointError, IntrudersError
from intruders.linalg.pair import Pair

# Of all of them but where they say otherwise, in the names that most configs have.
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
GROUPED = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2}
# One layer of three experts.
MIXED = SIZES | {"num_hidden_layers": 1, "num_key_value_heads": 2, "num_local_experts": 3}


def of_class(model: str, config: str, seed: int = 0, **settings: Any) -> Any:
    import transformers

    torch.manual_seed(seed)
    return getattr(transformers, model)(getattr(transformers, config)(**settings)).eval()


def tiny_llama(seed: int = 0, **settings: Any) -> nn.Module:
    """Two layers, hidden size 16, grouped attention, a vocabulary of 40."""
    sizes = GROUPED | {"tie_word_embeddings": False} | settings
    return of_class("LlamaForCausalLM", "LlamaConfig", seed, **sizes)


def tiny_gpt2(seed: int = 0, **settings: Any) -> nn.Module:
    """Two layers of Conv1D, whose weights are stored (in, out)."""
    sizes = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32} | settings
    return of_class("GPT2LMHeadModel", "GPT2Config", seed, **sizes)


def tiny_bert(seed: int = 0, classes: int | None = None) -> nn.Module:
    """Two layers; with ``classes``, behind a classification head and the prefix ``bert.``."""
    kind = "BertModel" if classes is None else "BertForSequenceClassification"
    sizes = SIZES | {"max_position_embeddings": 32, "num_labels": classes or 2}
    return of_class(kind, "BertConfig", seed, **sizes)


def tiny_mixtral(seed: int = 0) -> nn.Module:
    """One layer of three experts, stacked as (e, out, in)."""
    return of_class("MixtralForCausalLM", "MixtralConfig", seed, **MIXED)


def tiny_gpt_oss(seed: int = 0) -> nn.Module:
    """One layer of three experts, stacked as (e, in, out)."""
    sizes = MIXED | {"intermediate_size": 16, "head_dim": 8, "num_experts_per_tok": 2}
    model: nn.Module = of_class("GptOssForCausalLM", "GptOssConfig", seed, **sizes)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def tiny_llama4(inner: int = 24) -> nn.Module:
    """One layer of three experts, stacked as (e, in, out), which PEFT does not know."""
    sizes = MIXED | {"intermediate_size": inner, "num_attention_heads": 4, "intermediate_size_mlp": 32}
    others = {"head_dim": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "pad_token_id": 0}
    return of_class("Llama4ForCausalLM", "Llama4TextConfig", **sizes, **others)


def tiny_phi3(seed: int = 0, **settings: Any) -> nn.Module:
    """One layer, whose q, k and v are one weight."""
    tokens = dict.fromkeys(["pad_token_id", "bos_token_id", "eos_token_id"], 0)
    sizes = GROUPED | tokens | {"num_hidden_layers": 1} | settings
    return of_class("Phi3ForCausalLM", "Phi3Config", seed, **sizes)


def tiny_llava(*, tied: bool = False) -> nn.Module:
    """Language and vision model, which transformers saves under the names of an earlier class."""
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"hidden_size": 24, "intermediate_size": 40, "image_size": 16, "patch_size": 8, **sizes}
    text = {"hidden_size": 32, "intermediate_size": 48, "num_key_value_heads": 2, "vocab_size": 64, **sizes}
    return of_class(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        vision_config={"model_type": "clip_vision_model", **vision},
        text_config={"model_type": "llama", "pad_token_id": 0, "tie_word_embeddings": tied, **text},
        image_token_index=50,
        tie_word_embeddings=tied,
    )


def randomize_adapter(model: nn.Module, seed: int = 1) -> None:
    """Fill every trainable tensor, so that no factor is left at the zeros an adapter starts from."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def with_adapter(config: Any, model: nn.Module | None = None, seed: int = 1) -> Any:
    """A random adapter of this config, on a tiny Llama unless another model is given."""
    from peft import get_peft_model

    adapted = get_peft_model(tiny_llama() if model is None else model, config)
    randomize_adapter(adapted, seed)
    return adapted


def with_lora(model: nn.Module | None = None, seed: int = 1, **settings: Any) -> Any:
    """A LoRA whose factors are random; of rank 2, on q_proj of a tiny Llama, unless something else is given."""
    from peft import LoraConfig

    return with_adapter(LoraConfig(**{"r": 2, "target_modules": ["q_proj"]} | settings), model, seed)


def set_factors(model: nn.Module, size: float, seed: int) -> None:
    """Draw the factors of a LoRA anew, so that no update is left at the zero an adapter starts from."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = size * torch.randn(parameter.shape, generator=generator)


def moved(
    model: nn.Module,
    size: float,
    seed: int,
    only: Callable[[str, nn.Parameter], bool] = lambda name, parameter: True,
) -> nn.Module:
    """Add noise of this size to every parameter, or to those that ``only`` names, as a fine-tuning would."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if only(name, parameter):
            parameter.data += size * torch.randn(parameter.shape, generator=generator)
    return model


def saved(model: nn.Module, folder: Path) -> Path:
    """The model or adapter as its library saves it."""
    model.save_pretrained(folder)  # type: ignore[operator]
    return folder


def with_config(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
    """A folder of these tensors beside this config."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def packed_rows(rows: list[list[int]], bits: int) -> Tensor:
    """Rows of integers as 32-bit words, the first number in the lowest bits of one long Python integer."""
    count = -(-len(rows[0]) * bits // 32)
    totals = [sum(value << (bits * position) for position, value in enumerate(row)) for row in rows]
    words = [[(total >> (32 * index)) & 0xFFFFFFFF for index in range(count)] for total in totals]
    return torch.tensor(words).to(torch.int32)


def change_config(folder: Path, **values: Any) -> Path:
    """Overwrite some fields of a saved adapter's config."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """PEFT's own answer: the state dict after merge_and_unload (the model is used up by it)."""
    merged = model.merge_and_unload()  # type: ignore[operator]
    return {name: tensor.clone() for name, tensor in merged.state_dict().items()}


def loaded(pairing: Pairing) -> dict[str, Pair]:
    """Every pair that differs, by name; copied, because PEFT merges into the tensors of a model in memory."""
    result = {}
    for pair in pairing.pairs:
        both = pair.load()
        if both is not None:
            assert tuple(both.base.shape) == pair.shape
            result[pair.name] = copy.deepcopy(both)
    return result


def paired(base: Source | None, tuned: Source | None = None, selection: Selection = AS_AUDITED) -> Pairing:
    """The pairing of two sides, or of an adapter and the base that it names."""
    return pair_sides(*open_sides(base, tuned), selection)


def differing(
    base: Source | None, tuned: Source | None = None, selection: Selection = AS_AUDITED
) -> dict[str, Pair]:
    """Every pair of two sides that differs, by name."""
    return loaded(paired(base, tuned, selection))


def refused(
    words: str, error: type[IntrudersError] = CheckpointError
) -> pytest.RaisesExc[IntrudersError] | Any:
    """Expect an error of the reader that says this, as a regular expression."""
    return pytest.raises(error, match=words)


def assert_tuned(
    found: Mapping[str, Pair], truth: Mapping[str, Tensor], count: int | None = None, **tolerance: float
) -> None:
    """Compare every tuned matrix, of which there are as many, with its weight, a kernel counted to its input."""
    assert found
    assert count is None or len(found) == count
    for name, both in found.items():
        torch.testing.assert_close(tuned_of(both), truth[name].flatten(1), **tolerance)


def tuned_of(pair: Pair) -> Tensor:
    if isinstance(pair.tuned, Tensor):
        return pair.tuned
    return pair.base + pair.tuned.left @ pair.tuned.right


def reasons(pairing: Pairing) -> dict[str, str]:
    return {skipped.name: skipped.reason for skipped in pairing.skipped}


def moved_mixtral(folder: Path) -> tuple[str, str, nn.Module]:
    """A tiny Mixtral and the same one with every weight moved, as folders; and the model that was moved."""
    model: Any = tiny_mixtral()
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "experts" in name:  # so that experts matter to the outputs
            weight.data = 0.2 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder / "base")
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder / "tuned")
    return str(folder / "base"), str(folder / "tuned"), model


def not_to_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse what is in a folder as the system does to another user: tests may run as root, whom nothing stops."""

    def refusing(call: Callable[..., Any], refused: Callable[[Path], bool]) -> Callable[..., Any]:
        def called(path: Any, *args: Any, **options: Any) -> Any:
            if isinstance(path, str | os.PathLike) and refused(Path(path)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return call(path, *args, **options)

        return called

    monkeypatch.setattr(os, "stat", refusing(os.stat, lambda path: folder in path.parents))
    monkeypatch.setattr(os, "listdir", refusing(os.listdir, lambda path: folder in (path, *path.parents)))
