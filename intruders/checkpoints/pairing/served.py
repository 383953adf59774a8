"""What a runtime would do with an adapter: its settings and its weights, each with a reason and a way out.

Settings are a table, weights are found by their names in the model that the runtime serves, with the options that it
has by default. Both are from the code of the runtimes:

- vLLM 0.33.0: ``PEFTHelper`` (vllm/lora/peft_helper.py), ``from_local_checkpoint`` (lora_model.py),
  ``parse_fine_tuned_lora_name`` (utils.py), ``LoRAModelManager`` (model_manager.py), ``MaxLoRARanks``
  (vllm/config/lora.py), the classes and mappers of vllm/model_executor/models.
- SGLang 0.5.23: ``LoRAConfig`` (python/sglang/srt/lora/lora_config.py), ``LoRAAdapter``, ``normalize_qkv_proj`` and
  ``normalize_gate_up_proj`` (lora.py), ``validate_new_adapter`` (lora_manager.py), ``load_lora_weight_to_buffer``
  (mem_pool.py), ``get_hidden_dim`` (utils.py), ``get_layer_id`` (layers/utils/common.py).
- llama.cpp 0c1e57098: ``LoraModel`` (convert_lora_to_gguf.py), ``filter_tensors`` and ``map_tensor_name``
  (conversion/base.py), ``llama_adapter_lora_init_impl`` (src/llama-adapter.cpp), ``get_scale`` (src/llama-adapter.h).
- transformers 5.24.0 with PEFT 0.21.2: ``PeftModel.from_pretrained`` (src/peft/peft_model.py).
"""

import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ...errors import CheckpointError, SettingError
from ...system.result_protocol import JsonResult
from ..adapters.adapter import Adapter, AdapterConfig
from ..adapters.by_peft import modules_by_target
from ..adapters.peft_types import shapes_of_class
from ..opening.model_sum import Part as Model
from ..opening.named_base import known_here
from ..opening.open import Source, open_checkpoint
from ..stored.checkpoint import Checkpoint
from ..stored.names import is_embedding_or_head, match_names, module_paths, scores_classes, scores_tokens
from ..stored.tied import classes_of

RUNTIMES = {
    "vllm": "vLLM 0.33.0",
    "sglang": "SGLang 0.5.23",
    "llama.cpp": "llama.cpp 0c1e57098",
    "transformers": "transformers 5.24.0 with PEFT 0.21.2",
}
APPLIED, IGNORED, REFUSED, NOT_KNOWN = "applied", "ignored", "refused", "not known"
_OUTCOMES = {"a": APPLIED, "i": IGNORED, "r": REFUSED}
MERGE = "merge it into its base with PEFT's merge_and_unload, and serve the merged model"
WRITE_BASE = "write the base with these weights, resized where tokens were added, and serve that"


@dataclass(frozen=True)
class Part:
    """What a runtime does with a setting of an adapter, or with some of its weights.

    Attributes:
      what: the setting, or the kinds of module of the weights.
      outcome: "applied", "ignored", "refused" or "not known".
      reason: why it is not applied.
      way_out: what to do about it.
      weights: their modules, as the adapter names them; none for a setting.
    """

    what: str
    outcome: str
    reason: str = ""
    way_out: str = ""
    weights: tuple[str, ...] = ()


_ALIEN = "only factors have a place, and this is a weight of its own"
_CONVERT = "convert it to a plain LoRA with PEFT's path_initial_model_for_weight_conversion"
_NEW_B = "multiply each B of the pattern by its alpha / lora_alpha, and empty alpha_pattern"
_LIST = "write the names of the modules as a list into adapter_config.json"
_MOST_RANK = 16  # of vLLM's max_lora_rank, by default
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def settings_in(runtime: str, adapter: Adapter) -> Iterator[Part]:
    """Yield what a runtime does with each setting of an adapter that not every runtime reads."""
    config, start = adapter.config, (adapter.start or "").lower()
    saved = [name for name in adapter.replaced.tensors if name.endswith(".weight")]
    tokens = [name for name in saved if is_embedding_or_head(name) and not scores_classes(name)]
    norms = [name for name in saved if "norm" in name]
    modules = [name for name in saved if name not in norms and not is_embedding_or_head(name)]
    listed = " ".join(why for _, why in adapter.ignored)
    has_bias = "a bias" in listed or config.get("bias", "none") != "none"
    is_other_type = adapter.family == "PEFT" and adapter.peft_type != "LORA"
    ranks, targets = config.get("rank_pattern"), config.get("target_modules")
    is_rslora = bool(config.get("use_rslora"))
    r = int(config.get("r") or 1)
    alpha, root = float(config.get("lora_alpha") or r), math.sqrt(r)
    usual_scale = f"the scale is alpha / r, {root:.3g} times less"
    new_alpha = f"write lora_alpha {alpha * root:.6g} and use_rslora false into adapter_config.json"
    changed = f"training began on weights that {start} had changed, and the served base has the original ones"
    not_read = f"the pattern '{str(targets)[:30]}' is not read"
    # Of every setting: whether the adapter has it, what RUNTIMES do, in order ((a)pplied, (i)gnored or (r)efused), the
    # reason and the way out.
    for what, has, outcomes, reason, way_out in (
        ("file", adapter.family != "PEFT", "rrrr", "it has no adapter_config.json", MERGE),
        ("PEFT type", is_other_type, "rrra", "it is not LORA", MERGE),
        ("DoRA", config.get("use_dora"), "rrra", "the magnitudes beside the factors are not read", MERGE),
        ("BD-LoRA", config.get("use_bdlora"), "rrra", "factors in blocks have other shapes", MERGE),
        ("KaSA", start == "kasa", "rrra", "the diagonals beside the factors are not read", MERGE),
        ("aLoRA", config.get("alora_invocation_tokens"), "riaa", "every token is adapted", "use llama.cpp"),
        ("rsLoRA", is_rslora and not ranks, "aiia", usual_scale, new_alpha),
        ("rsLoRA of several ranks", is_rslora and ranks, "aiia", "the scale is alpha / rank", MERGE),
        ("alpha_pattern", config.get("alpha_pattern"), "aiia", "lora_alpha scales every module", _NEW_B),
        ("rank_pattern", ranks, "araa", f"every factor needs rank {r}", MERGE),
        ("PiSSA or OLoRA start", start.startswith(("pissa", "olora")), "riia", changed, _CONVERT),
        ("CorDA or LoftQ start", start.startswith(("corda", "loftq")), "riii", changed, _CONVERT),
        ("LoRA-GA start", start.startswith("lora_ga"), "iiii", changed, _CONVERT),
        ("target_modules", isinstance(targets, str), "araa", not_read, _LIST),
        ("biases", has_bias, "rira", _ALIEN, MERGE),
        ("trained tokens", "tokens" in listed, "rira", _ALIEN, MERGE),
        ("saved class head", any(map(scores_classes, saved)), "aira", _ALIEN, MERGE),
        ("saved embeddings or head", tokens, "rira", _ALIEN, WRITE_BASE),
        ("saved norms", norms, "rria", _ALIEN, MERGE),
        ("saved modules", modules, "rrra", _ALIEN, MERGE),
    ):
        outcome = _OUTCOMES[outcomes[list(RUNTIMES).index(runtime)]]
        if has and outcome == APPLIED:
            yield Part(what, APPLIED)
        elif has:
            yield Part(what, outcome, reason, way_out)
    rank = max([r, *(update.rank or r for update in adapter.updates)])
    if runtime == "vllm" and rank > _MOST_RANK:
        enough = next((most for most in _VLLM_RANKS if most >= rank), None)
        way_out = f"start vLLM with --max-lora-rank {enough}" if enough else MERGE
        yield Part(f"rank {rank}", REFUSED, f"max_lora_rank is {_MOST_RANK} by default", way_out)


Verdict = tuple[str, str, str]  # as in a Part: outcome, reason, way out


def _named(families: str, ending: str) -> list[str]:
    return [family + ending for family in families.split()]


_TEXT, _KINDS = "ForCausalLM", "ForConditionalGeneration"
# Classes of vLLM: without LoRA (no SupportsLoRA); with LoRA on embeddings and head (embedding_modules); whose mapper
# knows ``model.language_model.``; with experts in stacks (is_3d_moe_weight). Of models of several kinds, vLLM finds the
# language model's own names, ``model.layers``, since 0.33 (``_get_text_lora_names``; issues 34186 and 48019).
_WITHOUT_LORA = _named(
    """Bloom Dbrx DeepseekVLV2 Falcon FalconMamba GPTJ Gemma3n KimiLinear Mamba Mamba2 MiMoV2Flash Orion Phi3V StableLm
    Zamba2""",
    _TEXT,
) + _named("Aria Cohere2Vision Gemma3n KimiVL LlavaOnevision Qwen2Audio", _KINDS)
_WITH_EMBEDDINGS = _named(
    """Apertus DeciLM Ernie4_5 Exaone Exaone4 ExaoneMoe FalconH1 Granite GraniteMoe GraniteMoeHybrid GraniteMoeShared
    HyperCLOVAX InternLM3 Jamba Lfm2 Lfm2Moe Llama Llama4 MiniCPM MiniCPM3 Mixtral Nemotron NemotronH Phi3 PhiMoE Qwen3
    Qwen3Moe Qwen3_5 Qwen3_5Moe Solar TeleChat2""",
    _TEXT,
)
_MAPPED = _named("Gemma4 Qwen3_5 Qwen3_5Moe", _TEXT) + _named(
    """CohereCompass Gemma3 Gemma4 Glm4v Granite4Vision InternS1 Lfm2VL Llava LlavaNext Mistral3 PaliGemma Pixtral
    Qwen2VL Qwen2_5_VL Qwen3VL Qwen3VLMoe Qwen3_5 Qwen3_5Moe""",
    _KINDS,
)
_STACKED = ["GptOssForCausalLM", *_named("Qwen3VLMoe Qwen3_5Moe InternS1Pro Qwen3OmniMoeThinker", _KINDS)]
_PARTS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
# What SGLang has sizes of for its buffers, and what it needs beside a module: of others it makes zeros.
_SIZED = _named("q k v qkv o out gate up gate_up down in q_a q_b kv_b", "_proj") + _named(
    "in_proj_qkvz kv_a_proj_with_mqa fused_qkv_a_proj_with_mqa embed_tokens lm_head", ""
)
_NEEDED = {"q": ["v_proj"], "k": ["q_proj", "v_proj"], "v": ["q_proj"], "up": ["gate_proj"]}
_TOWER = re.compile(r"(?:^|\.)(?:visual|vision\w*|audio\w*|multi_modal_projector|vpm|connector)\.")
_LAYERS = re.compile(r"(?<![^.])layers\.\d+\.")
_OTHER_BASE = "serve it on the base that it was trained on"


@dataclass(frozen=True)
class _Modules:
    """The modules of a base and of an adapter, by name."""

    architecture: str
    of_text: bool  # alone
    tied: bool
    modules: Collection[str]  # as on disk
    leaves: Collection[str]  # the last parts of these
    in_memory: Mapping[str, tuple[int, ...]]  # the weights as transformers names them
    changed: Collection[str]  # by the adapter
    stacked: Collection[str]  # among the changed, stacks of experts


def weights_in(runtime: str, adapter: Adapter, base: Checkpoint | None) -> list[Part]:
    """Return what a runtime does with the weights that an adapter changes, those of one answer together."""
    shapes = {update.name: update.full_shape for update in adapter.updates}
    short = {name: name.removesuffix(".weight") for name in shapes}
    if base is None:
        unknown = (NOT_KNOWN, "only the base tells whether it has modules of these names", "pass --base BASE")
        return _together(dict.fromkeys(short.values(), unknown))
    config, there = base.config or {}, base.shapes()
    in_memory: Mapping[str, tuple[int, ...]] = {}  # where transformers has no class for a base
    if runtime == "transformers":
        with suppress(Exception):  # it raises what it likes
            in_memory = shapes_of_class(base.config)
    modules = {name.removesuffix(".weight") for name, shape in there.items() if len(shape) > 1}
    served = _Modules(
        architecture=next(iter(classes_of(base.config)), "the base"),
        of_text=not config.keys() & {"text_config", "vision_config", "audio_config"},
        tied=bool(config.get("tie_word_embeddings")),
        modules=modules,
        leaves={_leaf(name) for name in modules},
        in_memory=in_memory,
        changed=set(short.values()),
        stacked={short[update.name] for update in adapter.updates if update.experts is not None},
    )
    base_of = match_names(there, shapes).base_of
    verdicts: dict[str, Verdict] = {}
    for name, module in short.items():
        meant = base_of.get(name, "")
        verdicts[module] = _JUDGES[runtime](module, meant.removesuffix(".weight"), served)
        shape = shapes[name]
        is_told = meant and module not in served.stacked and -1 not in shape
        if is_told and sorted(shape) != sorted(there[meant]):  # a Conv1D is stored transposed
            reason = f"of the shape {shapes[name]}, and in the base {there[meant]}"
            verdicts[module] = REFUSED, reason, WRITE_BASE if is_embedding_or_head(name) else _OTHER_BASE
    names = [name.removesuffix(".weight") for name in served.in_memory]
    if adapter.family == "PEFT" and names and adapter.config.get("target_modules"):
        try:
            modules_by_target(AdapterConfig(adapter.config, adapter.source), names)
        except CheckpointError:
            reason = "none of target_modules is in the model"
            verdicts = dict.fromkeys(verdicts, (REFUSED, reason, _OTHER_BASE))
    for name, kept in adapter.replaced.tensors.items():
        size = served.in_memory.get(name, kept.shape)
        if size != kept.shape:
            way_out = f"call resize_token_embeddings({kept.shape[0]}) on the model first"
            verdicts[name] = REFUSED, f"saved in the shape {kept.shape}, and in the base {size}", way_out
    return _together(verdicts)


def _together(verdicts: dict[str, Verdict]) -> list[Part]:
    kinds = {name: path.kind for name, path in zip(verdicts, module_paths(list(verdicts)), strict=True)}
    groups: dict[Verdict, list[str]] = {}
    for name, verdict in verdicts.items():
        groups.setdefault(verdict, []).append(name)
    return [
        Part(", ".join(dict.fromkeys(kinds[name] for name in group)), *verdict, weights=tuple(group))
        for verdict, group in groups.items()
    ]


def _vllm(name: str, meant: str, served: _Modules) -> Verdict:
    leaf, kind = _leaf(name), served.architecture
    if kind in _WITHOUT_LORA or kind == "GPT2LMHeadModel":
        return REFUSED, f"vLLM serves {kind} without LoRA", MERGE
    if name in served.stacked and kind in _STACKED:
        return APPLIED, "", ""
    if name in served.stacked:
        return REFUSED, "experts are expected one by one", "start vLLM with --enable-mixed-moe-lora-format"
    if is_embedding_or_head(name):
        if served.of_text and kind not in _WITH_EMBEDDINGS:
            return REFUSED, f"{kind} has no LoRA on embeddings and heads", MERGE
    elif leaf in _PARTS and leaf not in served.leaves and set(_PARTS[leaf]) <= set(served.leaves):
        way_out = "save every part with all of A, and with its own rows of B"
        return REFUSED, f"{leaf} is expected in its parts: {', '.join(_PARTS[leaf])}", way_out
    elif leaf not in served.leaves:
        return REFUSED, f"{kind} has no module '{leaf}'", _OTHER_BASE
    if not served.of_text and _TOWER.search(name):
        return IGNORED, "only the language model has LoRA", "start vLLM with --enable-tower-connector-lora"
    prefix, rest = _cut(name)
    if name == meant or (served.tied and scores_tokens(name)):
        return APPLIED, "", ""
    if meant and rest == _cut(meant)[1] and (not served.of_text or kind in _MAPPED):
        if kind not in _MAPPED:
            return NOT_KNOWN, f"vLLM's names of {kind} are not among the rules here", "ask the server"
        if prefix in ("model.", "model.language_model.", "language_model.model."):
            return APPLIED, "", ""
    return IGNORED, *_not_found(name, meant, served)


def _sglang(name: str, meant: str, served: _Modules) -> Verdict:
    parent, _, leaf = name.rpartition(".")
    needed = _NEEDED.get(leaf.removesuffix("_proj"), [])
    lacking = [part for part in needed if f"{parent}.{part}" not in served.changed]
    if name in served.stacked:
        return REFUSED, "stacks of experts are not read in PEFT's shapes", MERGE
    if leaf not in _SIZED:
        return REFUSED, f"its buffers have no size for '{leaf}'", MERGE
    if is_embedding_or_head(name):
        return APPLIED, "", ""
    if not _LAYERS.search(name):
        return IGNORED, "names without 'layers' and a number are passed over", MERGE
    if _TOWER.search(name):
        return REFUSED, "layers of a tower are taken for those of the language model", MERGE
    if lacking and (leaf != "up_proj" or "gate_proj" in served.leaves):
        reason = f"it is stacked with {' and '.join(lacking)}, which the adapter lacks"
        return REFUSED, reason, f"add {' and '.join(lacking)} with a B of zeros"
    is_there = meant or leaf in _PARTS  # what is fused is taken apart
    return (APPLIED, "", "") if is_there else (IGNORED, *_not_found(name, meant, served))


def _llama_cpp(name: str, meant: str, served: _Modules) -> Verdict:
    if _TOWER.search(name):
        return IGNORED, "the converter passes over all but the language model", MERGE
    if name in served.stacked:
        return REFUSED, "the converter maps no stack of experts in PEFT's shapes", MERGE
    if served.tied and scores_tokens(name):
        return REFUSED, "a head that is the embeddings has no tensor of its own", MERGE
    if not meant or name.replace("language_model.", "") != meant.replace("language_model.", ""):
        return REFUSED, *_not_found(name, meant, served)
    return APPLIED, "", ""


def _transformers(name: str, meant: str, served: _Modules) -> Verdict:
    # Names as on disk are renamed with those of the base.
    is_there = f"{name}.weight" in served.in_memory or name in served.modules
    return (APPLIED, "", "") if is_there else (IGNORED, *_not_found(name, meant, served))


_JUDGES: dict[str, Callable[[str, str, _Modules], Verdict]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "llama.cpp": _llama_cpp,
    "transformers": _transformers,
}


def _not_found(name: str, meant: str, served: _Modules) -> tuple[str, str]:
    if not meant:
        return f"{served.architecture} has no such modules", _OTHER_BASE
    ours, theirs = _cut(name)[0], _cut(meant)[0]
    reason = f"the names begin with '{ours}', and those of {served.architecture} with '{theirs}'"
    return reason, f"rename '{ours}' to '{theirs}' in the names of its weights"


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _cut(name: str) -> tuple[str, str]:
    """What stands before the layers, or before the last part where there are none, and the rest."""
    layers = _LAYERS.search(name)
    start = layers.start() if layers else name.rfind(".") + 1
    return name[:start], name[start:]


@dataclass(frozen=True)
class Served(JsonResult):
    """What a runtime would do with an adapter.

    Attributes:
      source: the adapter, as it was given.
      runtime: the runtime, in the version whose code the rules follow.
      base: the model whose names were compared; None where none was given or is on this machine.
      architecture: the class that its config names.
      parts: the weights, those of one answer together, and the settings.
    """

    what = "what a runtime does with an adapter"
    written_by = "intruders inspect --for --json"

    source: str
    runtime: str
    base: str | None
    architecture: str | None
    parts: list[Part]

    @property
    def refused(self) -> bool:
        """Whether the runtime would not load the adapter at all."""
        return any(part.outcome == REFUSED for part in self.parts)

    @property
    def in_full(self) -> bool:
        """Whether nothing is known to be ignored or refused."""
        return not self.refused and all(part.outcome != IGNORED for part in self.parts)


def served_by(runtime: str, models: Sequence[tuple[Model, float]], base: Source | None = None) -> Served:
    """Return what a runtime does with an adapter on ``base``, or on the one that it names. SettingError for others."""
    if runtime not in RUNTIMES:
        raise SettingError(f"--for is '{runtime}'; expected {', '.join(RUNTIMES)}; pass one of these")
    adapter = models[0][0]
    if len(models) > 1 or not isinstance(adapter, Adapter):
        raise SettingError(
            f"'{adapter.source}' was passed with --for; expected one adapter; pass one, or omit --for"
        )
    if base is None and adapter.base_source is not None:
        named = known_here(adapter.base_source)
        base = named if named is not None and os.path.exists(named) else None  # nothing is fetched
    opened = None if base is None else open_checkpoint(base)
    parts = [*weights_in(runtime, adapter, opened), *settings_in(runtime, adapter)]
    if any(part.outcome == REFUSED for part in parts):
        reason = "the adapter is refused"
        for number, part in enumerate(parts):
            if part.outcome == APPLIED:
                parts[number] = replace(part, outcome=REFUSED, reason=reason)
    return Served(
        source=adapter.source,
        runtime=RUNTIMES[runtime],
        base=None if opened is None else opened.source,
        architecture=None if opened is None else next(iter(classes_of(opened.config)), None),
        parts=parts,
    )
