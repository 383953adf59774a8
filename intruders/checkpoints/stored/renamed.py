"""Names that transformers gives the tensors of a file when it loads them, since its version 5, as PEFT then sees them.

The tables are those of transformers (``conversion_mapping.py``) as far as they substitute parts of names, for language
models and the encoders of images beside them. A tensor that is cut or joined on loading has no entry.
"""

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from functools import cache

# Parts that wrappers (torch.compile, FSDP, activation checkpointing, PEFT) put between a module and its weight.
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"})

# The part in a file: the part in memory. "^" stands for the start of the name, and "#" for a number.
Renames = Mapping[str, str]

OF_EVERY_MODEL: Renames = {
    "LayerNorm.gamma": "LayerNorm.weight",
    "LayerNorm.beta": "LayerNorm.bias",
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
    "^embed_out.": "lm_head.",  # GPT-NeoX
}

_VIT = {
    "encoder.layer.": "layers.",
    "attention.query": "q_proj",
    "attention.key": "k_proj",
    "attention.value": "v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_MIXTRAL = {".block_sparse_moe.": ".mlp."}
_FORGET_GATE = {
    f"self_attn.{part}": f"self_attn.forget_gate.{part}"
    for part in ("f_a_proj.", "f_b_proj.", "dt_bias", "A_log")
}

# By one of the classes or model types of transformers that have them. The order within a family counts.
OF_FAMILIES: Mapping[str, Renames] = {
    "ViTModel": _VIT,
    "BeitModel": {
        **_VIT,
        "encoder.relative_position_bias": "shared_position_bias",
        "attention.attention.relative_position_bias.relative_position_bias_table": (
            "relative_position_bias.relative_position_bias_table"
        ),
    },
    "Dinov2Model": {
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "mlp.weights_out": "mlp.down_proj",
    },
    "swin": {
        "attention.self.query": "attention.q_proj",
        "attention.self.key": "attention.k_proj",
        "attention.self.value": "attention.v_proj",
        "attention.self.relative_position_bias_table": (
            "attention.relative_position_bias.relative_position_bias_table"
        ),
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    },
    "SegformerModel": {
        "encoder.patch_embeddings.#.": "stages.#.patch_embeddings.",
        "encoder.block.#.": "stages.#.blocks.",
        "encoder.layer_norm.#": "stages.#.layer_norm",
        "attention.self.query": "attention.q_proj",
        "attention.self.key": "attention.k_proj",
        "attention.self.value": "attention.v_proj",
        "attention.self.sr": "attention.sequence_reduction.sequence_reduction",
        "attention.self.layer_norm": "attention.sequence_reduction.layer_norm",
        "attention.output.dense": "attention.o_proj",
        "mlp.dense1": "mlp.fc1",
        "mlp.dense2": "mlp.fc2",
        "layer_norm_1": "layernorm_before",
        "layer_norm_2": "layernorm_after",
    },
    "exaone": {
        "^transformer.wte.": "model.embed_tokens.",
        "^transformer.h.": "model.layers.",
        "^transformer.ln_f.": "model.norm.",
        ".attn.attention.": ".self_attn.",
        ".self_attn.out_proj.": ".self_attn.o_proj.",
        ".ln_1.": ".input_layernorm.",
        ".ln_2.": ".post_attention_layernorm.",
        ".mlp.c_fc_0.": ".mlp.gate_proj.",
        ".mlp.c_fc_1.": ".mlp.up_proj.",
        ".mlp.c_proj.": ".mlp.down_proj.",
    },
    "granitemoe": {
        "block_sparse_moe.input_linear.weight": "block_sparse_moe.experts.gate_up_proj",
        "block_sparse_moe.output_linear.weight": "block_sparse_moe.experts.down_proj",
        "block_sparse_moe.router.layer.weight": "block_sparse_moe.router.weight",
    },
    "aria_text": {
        "mlp.experts.fc1.weight": "mlp.experts.gate_up_proj",
        "mlp.experts.fc2.weight": "mlp.experts.down_proj",
    },
    "mixtral": _MIXTRAL,
    "phimoe": {**_MIXTRAL, ".gate.weight": ".router.weight"},
    "kimi_linear": {**_FORGET_GATE, **_MIXTRAL},
    "nemotron_h": {"backbone.": "model."},
    "nomic_bert": {
        "encoder.layers": "layers",
        "emb_ln": "embeddings.LayerNorm",
        "attn.out_proj": "self_attn.o_proj",
        "fc11": "up_proj",
        "fc12": "gate_proj",
        "fc2": "down_proj",
        "norm1": "post_attention_layernorm",
        "norm2": "post_mlp_layernorm",
    },
    "gte": {
        "encoder.layer": "layers",
        "attention.o_proj": "self_attn.o_proj",
        "attn_ln": "post_attention_layernorm",
        "mlp_ln": "post_mlp_layernorm",
        "lm_head.norm": "lm_head.layer_norm",
    },
    "jina_embeddings_v3": {
        "emb_ln": "embeddings.LayerNorm",
        "encoder.layers": "layers",
        "mixer.out_proj": "self_attn.o_proj",
        "norm1": "post_attention_layernorm",
        "norm2": "post_mlp_layernorm",
    },
    "bailing_hybrid": {
        "^model.word_embeddings.": "model.embed_tokens.",
        ".attention.": ".self_attn.",
        "self_attn.f_proj.": "self_attn.forget_gate.f_proj.",
        "self_attn.dt_bias": "self_attn.forget_gate.dt_bias",
        "self_attn.A_log": "self_attn.forget_gate.A_log",
        ".self_attn.dense.": ".self_attn.o_proj.",
        ".mlp.gate.expert_bias": ".mlp.gate.e_score_correction_bias",
    },
    "sarvam_moe": {
        "^model.word_embeddings.": "model.embed_tokens.",
        ".attention.": ".self_attn.",
        ".self_attn.dense.": ".self_attn.o_proj.",
        ".self_attn.query_layernorm.": ".self_attn.q_norm.",
        ".self_attn.key_layernorm.": ".self_attn.k_norm.",
        ".mlp.gate.expert_bias": ".mlp.gate.e_score_correction_bias",
    },
    "hy_v3": {
        "mlp.router.gate.weight": "mlp.gate.weight",
        "mlp.expert_bias": "mlp.e_score_correction_bias",
        "mlp.shared_mlp.": "mlp.shared_experts.",
    },
    "laguna": {
        "mlp.experts.e_score_correction_bias": "mlp.gate.e_score_correction_bias",
        "mlp.shared_expert.": "mlp.shared_experts.",
    },
    "kolibri1": {
        "moe.router.expert_bias": "mlp.gate.e_score_correction_bias",
        "post_attn_norm": "post_self_attn_layernorm",
        "post_ffn_norm": "post_mlp_layernorm",
    },
    "olmo_hybrid": {
        "attention_layer_norm": "input_layernorm",
        "feedforward_layer_norm": "post_attention_layernorm",
    },
    "ernie4_5_moe": {
        "mlp.moe_statics.e_score_correction_bias": "mlp.gate.moe_statics.e_score_correction_bias"
    },
    "exaone_moe": {"mlp.e_score_correction_bias": "mlp.gate.e_score_correction_bias"},
    "axk1": {"post_mlp_layernorm": "mlp.post_mlp_layernorm"},
    "axk2": {"W_down": "mlp.fc1", "W_up": "mlp.fc2", "self_attn.q_b_proj.": "self_attn.q_gate_proj."},
    "mimo_v2_flash": {"self_attn.attention_sink_bias": "self_attn.sinks"},
    "flint": {"self_attn.softmax_offset": "self_attn.sinks"},
    "lfm3": {".self_attn.gate_proj.": ".self_attn.g_proj."},
    "hrm_text": {".attn.o_proj.": ".self_attn.o_proj."},
}


def in_memory(names: Iterable[str], renames: Renames, taken: Container[str] = ()) -> dict[str, str]:
    """Return the name in memory of each name.

    A name stays where another tensor of its side has that one already (``taken``), or would get it too.

    >>> in_memory(["ln.LayerNorm.gamma", "embed_out.weight"], OF_EVERY_MODEL, taken=["lm_head.weight"])
    {'ln.LayerNorm.gamma': 'ln.LayerNorm.weight', 'embed_out.weight': 'embed_out.weight'}
    """
    rules = [_compiled(part, other) for part, other in renames.items()]
    renamed = {}
    for name in names:
        new = name
        for rule, other in rules:
            new = rule.sub(other, new, count=1)
        renamed[name] = new
    times = Counter(renamed.values())
    return {
        name: name if new in taken or new in renamed or times[new] > 1 else new
        for name, new in renamed.items()
    }


# What DataParallel and other wrappers put before the name of a complete model.
_START = rf"^(?P<start>(?:(?:module|{'|'.join(sorted(WRAPPERS))})\.)*)"


@cache
def _compiled(part: str, other: str) -> tuple[re.Pattern[str], str]:
    inner = re.escape(part.removeprefix("^")).replace(r"\#", r"(?P<number>\d+)")
    # A part ends where a word ends.
    start, end = _START if part.startswith("^") else "(?P<start>)", r"(?!\w)" if part[-1].isalnum() else ""
    return re.compile(start + inner + end), r"\g<start>" + other.replace("#", r"\g<number>")
