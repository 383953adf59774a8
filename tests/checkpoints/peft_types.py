"""Configs of every PEFT type that PEFT's own code makes the weights of, with the options that change how."""

from __future__ import annotations

from collections.abc import Callable

import peft
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig

T = ["q_proj", "down_proj"]

MADE_BY_PEFT: dict[str, Callable[[], peft.PeftConfig]] = {
    "adamss": lambda: peft.AdamssConfig(r=4, num_subspaces=2, subspace_rank=1, target_modules=T),
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=T),
    "c3a": lambda: peft.C3AConfig(block_size=8, target_modules=T),
    "deft": lambda: peft.DeftConfig(r=2, target_modules=T),
    "delora": lambda: peft.DeloraConfig(r=2, target_modules=T),
    "fourierft": lambda: peft.FourierFTConfig(n_frequency=20, target_modules=T),
    "frod": lambda: peft.FrodConfig(target_modules=T, progressbar=False),
    "glora": lambda: peft.GloraConfig(r=2, target_modules=T),
    "gralora": lambda: peft.GraloraConfig(r=4, gralora_k=2, target_modules=T),
    "hira": lambda: peft.HiraConfig(r=2, target_modules=T),
    "hra": lambda: peft.HRAConfig(r=2, target_modules=T),
    "ln_tuning": lambda: peft.LNTuningConfig(target_modules=T),
    "miss": lambda: peft.MissConfig(r=4, target_modules=T),
    "oft": lambda: peft.OFTConfig(oft_block_size=4, target_modules=T),
    "osf": lambda: peft.OSFConfig(effective_rank=4, target_modules=T),
    "peanut": lambda: peft.PeanutConfig(r=2, target_modules=T),
    "psoft": lambda: peft.PsoftConfig(r=4, target_modules=T),
    "pvera": lambda: peft.PveraConfig(r=4, target_modules=T),
    "randlora": lambda: peft.RandLoraConfig(r=4, target_modules=T),
    "road": lambda: peft.RoadConfig(group_size=8, target_modules=T),
    "shira": lambda: peft.ShiraConfig(r=2, target_modules=T),
    "supertuning": lambda: peft.SupertuningConfig(target_modules=T),
    "tinylora": lambda: peft.TinyLoraConfig(r=2, u=4, target_modules=T),
    "unilora": lambda: peft.UniLoraConfig(r=2, theta_d_length=32, target_modules=T),
    "vblora": lambda: peft.VBLoRAConfig(r=2, num_vectors=8, vector_length=4, topk=2, target_modules=T),
    "waveft": lambda: peft.WaveFTConfig(n_frequency=20, target_modules=T),
}

OPTIONS: dict[str, Callable[[], peft.PeftConfig]] = {
    "vera": lambda: peft.VeraConfig(r=4, target_modules=T),
    "vera without its projection": lambda: peft.VeraConfig(r=4, target_modules=T, save_projection=False),
    "pvera without its projection": lambda: peft.PveraConfig(r=4, target_modules=T, save_projection=False),
    "randlora without its projection": lambda: peft.RandLoraConfig(
        r=4, target_modules=T, save_projection=False
    ),
    "randlora, sparse": lambda: peft.RandLoraConfig(r=4, target_modules=T, sparse=True),
    "randlora, very sparse": lambda: peft.RandLoraConfig(r=4, target_modules=T, very_sparse=True),
    "tinylora without its projection": lambda: peft.TinyLoraConfig(
        r=2, u=4, target_modules=T, save_projection=False
    ),
    "tinylora, tied": lambda: peft.TinyLoraConfig(r=2, u=4, target_modules=T, weight_tying=1.0),
    "unilora with its indices": lambda: peft.UniLoraConfig(
        r=2, theta_d_length=32, target_modules=T, save_indices=True
    ),
    "unilora, by a pattern": lambda: peft.UniLoraConfig(
        r=2, theta_d_length=32, target_modules=r".*\.(q_proj|down_proj)"
    ),
    "vblora, best vectors only": lambda: peft.VBLoRAConfig(
        r=2, num_vectors=8, vector_length=4, topk=2, target_modules=T, save_only_topk_weights=True
    ),
    "ia3": lambda: peft.IA3Config(target_modules=T, feedforward_modules=["down_proj"]),
    "oft, shared blocks": lambda: peft.OFTConfig(oft_block_size=4, block_share=True, target_modules=T),
    "oft, coft": lambda: peft.OFTConfig(oft_block_size=4, coft=True, eps=0.3, target_modules=T),
    "oft, exact inverse": lambda: peft.OFTConfig(
        oft_block_size=4, use_cayley_neumann=False, target_modules=T
    ),
    "hra, orthonormal": lambda: peft.HRAConfig(r=2, apply_GS=True, target_modules=T),
    "hira with a pattern": lambda: peft.HiraConfig(r=2, target_modules=T, rank_pattern={"q_proj": 3}),
    "delora with patterns": lambda: peft.DeloraConfig(
        r=2, target_modules=T, rank_pattern={"q_proj": 3}, lambda_pattern={"down_proj": 5}
    ),
    "c3a with a pattern": lambda: peft.C3AConfig(
        block_size=8, target_modules=T, block_size_pattern={"q_proj": 4}
    ),
    "fourierft with a pattern": lambda: peft.FourierFTConfig(
        n_frequency=20, target_modules=T, n_frequency_pattern={"q_proj": 9}
    ),
    "osf with a pattern": lambda: peft.OSFConfig(effective_rank=4, target_modules=T, rank_pattern={"q_": 6}),
    "gralora, hybrid": lambda: peft.GraloraConfig(r=4, hybrid_r=2, gralora_k=2, target_modules=T),
    "miss, bat": lambda: peft.MissConfig(r=4, target_modules=T, init_weights="bat"),
    "miss, mini": lambda: peft.MissConfig(r=4, mini_r=2, target_modules=T, init_weights="mini"),
    "road, variant 2": lambda: peft.RoadConfig(variant="road_2", group_size=8, target_modules=T),
    "one module's layers": lambda: peft.OFTConfig(
        oft_block_size=4, target_modules=T, layers_to_transform=[1], exclude_modules=["down_proj"]
    ),
    "lora, bd": lambda: peft.LoraConfig(
        r=2,
        target_modules=T,
        use_bdlora=BdLoraConfig(nblocks=2, target_modules_bd_a=["q_proj"], target_modules_bd_b=["down_proj"]),
    ),
    "lora, kasa": lambda: peft.LoraConfig(r=2, target_modules=T, kasa_config=KasaConfig()),
    "lora, pissa": lambda: peft.LoraConfig(r=2, target_modules=T, init_lora_weights="pissa"),
    "lora, olora": lambda: peft.LoraConfig(r=2, target_modules=T, init_lora_weights="olora"),
    "lora, pissa with patterns": lambda: peft.LoraConfig(
        r=2,
        target_modules=T,
        init_lora_weights="pissa",
        rank_pattern={"q_proj": 3},
        alpha_pattern={"down_proj": 9},
    ),
    "lora, pissa and dora, rslora": lambda: peft.LoraConfig(
        r=2, target_modules=T, init_lora_weights="pissa", use_dora=True, use_rslora=True
    ),
}

# Read as factors by our own formula, in a floating-point order of its own.
FACTORS: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora, monteclora": lambda: peft.LoraConfig(r=2, target_modules=T, monteclora_config=MontecloraConfig()),
    "lora, velora": lambda: peft.LoraConfig(r=2, target_modules=T, velora_config=VeloraConfig(num_groups=2)),
    "lora, orthogonal": lambda: peft.LoraConfig(r=2, target_modules=T, init_lora_weights="orthogonal"),
    "lora, mica": lambda: peft.LoraConfig(r=2, target_modules=T, init_lora_weights="mica"),
}
