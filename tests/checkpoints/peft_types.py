"""Configs of every PEFT type that PEFT's own code makes the weights of, with the options that change how."""

from collections.abc import Callable
from typing import Any

import peft
from peft.tuners.lora.config import BdLoraConfig, KasaConfig

T = ["q_proj", "down_proj"]


def config_of(kind: str, **settings: Any) -> Callable[[], peft.PeftConfig]:
    """A new config of a class of PEFT each time, for the modules ``T`` unless others are named."""
    return lambda: getattr(peft, f"{kind}Config")(**{"target_modules": T} | settings)


MADE_BY_PEFT: dict[str, Callable[[], peft.PeftConfig]] = {
    "adamss": config_of("Adamss", r=4, num_subspaces=2, subspace_rank=1),
    "boft": config_of("BOFT", boft_block_size=4),
    "c3a": config_of("C3A", block_size=8),
    "deft": config_of("Deft", r=2),
    "delora": config_of("Delora", r=2),
    "fourierft": config_of("FourierFT", n_frequency=20),
    "frod": config_of("Frod", progressbar=False),
    "glora": config_of("Glora", r=2),
    "gralora": config_of("Gralora", r=4, gralora_k=2),
    "hira": config_of("Hira", r=2),
    "hra": config_of("HRA", r=2),
    "ln_tuning": config_of("LNTuning"),
    "miss": config_of("Miss", r=4),
    "oft": config_of("OFT", oft_block_size=4),
    "osf": config_of("OSF", effective_rank=4),
    "peanut": config_of("Peanut", r=2),
    "psoft": config_of("Psoft", r=4),
    "pvera": config_of("Pvera", r=4),
    "randlora": config_of("RandLora", r=4),
    "road": config_of("Road", group_size=8),
    "shira": config_of("Shira", r=2),
    "supertuning": config_of("Supertuning"),
    "tinylora": config_of("TinyLora", r=2, u=4),
    "unilora": config_of("UniLora", r=2, theta_d_length=32),
    "vblora": config_of("VBLoRA", r=2, num_vectors=8, vector_length=4, topk=2),
    "waveft": config_of("WaveFT", n_frequency=20),
}

_BD = BdLoraConfig(nblocks=2, target_modules_bd_a=["q_proj"], target_modules_bd_b=["down_proj"])
_VECTORS = {"r": 2, "num_vectors": 8, "vector_length": 4, "topk": 2}
OPTIONS: dict[str, Callable[[], peft.PeftConfig]] = {
    "vera": config_of("Vera", r=4),
    "vera without its projection": config_of("Vera", r=4, save_projection=False),
    "pvera without its projection": config_of("Pvera", r=4, save_projection=False),
    "randlora without its projection": config_of("RandLora", r=4, save_projection=False),
    "randlora, sparse": config_of("RandLora", r=4, sparse=True),
    "randlora, very sparse": config_of("RandLora", r=4, very_sparse=True),
    "tinylora without its projection": config_of("TinyLora", r=2, u=4, save_projection=False),
    "tinylora, tied": config_of("TinyLora", r=2, u=4, weight_tying=1.0),
    "unilora with its indices": config_of("UniLora", r=2, theta_d_length=32, save_indices=True),
    "unilora, by a pattern": config_of(
        "UniLora", r=2, theta_d_length=32, target_modules=r".*\.(q_proj|down_proj)"
    ),
    "vblora, best vectors only": config_of("VBLoRA", **_VECTORS, save_only_topk_weights=True),
    "ia3": config_of("IA3", feedforward_modules=["down_proj"]),
    "oft, shared blocks": config_of("OFT", oft_block_size=4, block_share=True),
    "oft, coft": config_of("OFT", oft_block_size=4, coft=True, eps=0.3),
    "oft, exact inverse": config_of("OFT", oft_block_size=4, use_cayley_neumann=False),
    "hra, orthonormal": config_of("HRA", r=2, apply_GS=True),
    "hira with a pattern": config_of("Hira", r=2, rank_pattern={"q_proj": 3}),
    "delora with patterns": config_of(
        "Delora", r=2, rank_pattern={"q_proj": 3}, lambda_pattern={"down_proj": 5}
    ),
    "c3a with a pattern": config_of("C3A", block_size=8, block_size_pattern={"q_proj": 4}),
    "fourierft with a pattern": config_of("FourierFT", n_frequency=20, n_frequency_pattern={"q_proj": 9}),
    "osf with a pattern": config_of("OSF", effective_rank=4, rank_pattern={"q_": 6}),
    "gralora, hybrid": config_of("Gralora", r=4, hybrid_r=2, gralora_k=2),
    "miss, bat": config_of("Miss", r=4, init_weights="bat"),
    "miss, mini": config_of("Miss", r=4, mini_r=2, init_weights="mini"),
    "road, variant 2": config_of("Road", variant="road_2", group_size=8),
    "one module's layers": config_of(
        "OFT", oft_block_size=4, layers_to_transform=[1], exclude_modules=["down_proj"]
    ),
    "lora, bd": config_of("Lora", r=2, use_bdlora=_BD),
    "lora, kasa": config_of("Lora", r=2, kasa_config=KasaConfig()),
    "lora, pissa": config_of("Lora", r=2, init_lora_weights="pissa"),
    "lora, olora": config_of("Lora", r=2, init_lora_weights="olora"),
    "lora, pissa with patterns": config_of(
        "Lora", r=2, init_lora_weights="pissa", rank_pattern={"q_proj": 3}, alpha_pattern={"down_proj": 9}
    ),
    "lora, pissa and dora, rslora": config_of(
        "Lora", r=2, init_lora_weights="pissa", use_dora=True, use_rslora=True
    ),
}
