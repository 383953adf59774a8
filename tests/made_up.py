"""Made-up audits with the sizes and numbers of real ones, for tests of what people see.

Nothing here is measured: the values are drawn so that every case of a report occurs (few and many intruders,
wide and closed intervals, every certificate, ambiguous vectors, skipped tensors).
"""

import numpy as np

from intruders.audits.result.audit_result import Audit
from intruders.audits.result.records import AuditedMatrix, Subspaces, UpdateSize, Vector
from intruders.checkpoints.pairing.pairing import SkipKind, Skipped

LLAMA = {
    "self_attn.q_proj": (1.0, 1.0), "self_attn.k_proj": (0.5, 1.0), "self_attn.v_proj": (0.5, 1.0),
    "self_attn.o_proj": (1.0, 1.0), "mlp.gate_proj": (2.7, 1.0), "mlp.up_proj": (2.7, 1.0), "mlp.down_proj": (1.0, 2.7),
}  # fmt: skip
BERT = {
    "attention.self.query": (1.0, 1.0), "attention.self.key": (1.0, 1.0), "attention.self.value": (1.0, 1.0),
    "attention.output.dense": (1.0, 1.0), "intermediate.dense": (4.0, 1.0), "output.dense": (1.0, 4.0),
}  # fmt: skip
GPT2 = {"attn.c_attn": (3.0, 1.0), "attn.c_proj": (1.0, 1.0), "mlp.c_fc": (4, 1), "mlp.c_proj": (1, 4)}


def made_up_matrix(
    name: str,
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    intruder_rate: float,
    k: int = 10,
    epsilon: float = 0.5,
    base_vectors: int = 32,
    rank: int | None = 1,
    exact: bool = False,
) -> AuditedMatrix:
    """A matrix whose vectors are intruders with the given probability (rising with depth in the ranking)."""
    k = min(k, *shape)
    base_vectors = min(base_vectors, *shape)
    values = (30.0 + len(name) % 20) / (1 + np.arange(base_vectors)) ** 0.6  # of the base: by its name alone
    tuned_values = values[:k] * rng.uniform(1.0, 1.03, size=k)
    similarity = rng.uniform(0, 0.04, size=(base_vectors, k))
    vectors = []
    for index in range(k):
        if rng.random() < intruder_rate:
            lower = float(rng.uniform(0.05, epsilon * 0.8))
            certificate = (
                "exact" if exact else str(rng.choice(["mass", "moment", "exact"], p=[0.1, 0.7, 0.2]))
            )
            upper = lower if certificate == "exact" else float(rng.uniform(lower, epsilon - 1e-3))
            similarity[:, index] = rng.uniform(0, lower, size=base_vectors)
            similarity[int(rng.integers(base_vectors)), index] = lower
            intruder = True
        else:
            lower = float(1 - rng.beta(1, 8) * (1 - epsilon))
            certificate = "exact" if exact else "overlap"
            upper = lower if exact or lower > 0.72 else float(min(1.0, lower + 0.2))
            similarity[min(index, base_vectors - 1), index] = lower
            intruder = False
        vectors.append(
            Vector(
                index=index,
                singular_value=float(tuned_values[index]),
                max_cosine=(lower, upper),
                intruder=intruder,
                certificate=certificate,
                ambiguous=bool(rng.random() < 0.003),
            )
        )
    spectral = float(rng.lognormal(0, 0.6) * (1 + 12 * intruder_rate))
    effective = 1.0 if rank == 1 else float(rng.uniform(0.4, 0.9) * (rank or min(shape)))
    return AuditedMatrix(
        name=name,
        shape=shape,
        rank=rank,
        vectors=vectors,
        update=UpdateSize(
            frobenius=spectral * float(np.sqrt(effective)),
            spectral=spectral,
            effective_rank=effective,
            effective_rank_error=0.0 if rank is not None else effective * 0.01,
            stable_rank=max(1.0, effective * 0.6),
        ),
        base_singular_values=[float(v) for v in values],
        similarity=similarity.astype(np.float32),
        subspaces=made_up_subspaces(shape, k, len(name) % 3 == 0),
    )


def made_up_subspaces(shape: tuple[int, int], k: int, is_open: bool) -> Subspaces:
    """Numbers that agree with no weights; of some matrices the left space is not known."""
    m, n = shape
    return Subspaces(
        rotation_left_angle=float("nan") if is_open else 63.2,
        rotation_left_angle_chance=float("nan") if 4 * k > m else 89.5,
        rotation_left_sine2=0.12,
        rotation_left_sine2_chance=1 - k / m,
        rotation_right_angle=61.7,
        rotation_right_angle_chance=float("nan") if 4 * k > n else 89.4,
        rotation_right_sine2=0.11,
        rotation_right_sine2_chance=1 - k / n,
        spectral_drift=0.03,
        spectral_drift_bound=0.21,
        rho_k=0.04,
        rho_k_chance=k / m,
        off_principal=0.93,
        off_principal_chance=(1 - k / m) * (1 - k / n),
        max_cosine_chance=0.14,
    )


def made_up_audit(
    layers: int = 30,
    kinds: dict[str, tuple[float, float]] | None = None,
    *,
    width: int = 576,
    prefix: str = "model.layers",
    intruder_rate: float = 0.1,
    k: int = 10,
    epsilon: float = 0.5,
    rank: int | None = 1,
    exact: bool = False,
    base: str = "smollm2-135m",
    tuned: str = "runs/word-problems-r1",
    seed: int = 0,
) -> Audit:
    """An audit of `layers` x `kinds` matrices; later layers have more intruders, as real ones often do."""
    rng = np.random.default_rng(seed)
    kinds = LLAMA if kinds is None else kinds
    matrices = [
        made_up_matrix(
            f"{prefix}.{layer}.{kind}.weight",
            (round(width * rows), round(width * columns)),
            rng,
            intruder_rate=min(
                1.0, intruder_rate * 2 * (layer + 1) / layers * (1.5 if "down" in kind else 0.8)
            ),
            k=k,
            epsilon=epsilon,
            rank=rank,
            exact=exact,
        )
        for layer in range(layers)
        for kind, (rows, columns) in kinds.items()
    ]
    skipped = [Skipped(f"{prefix}.{i}.input_layernorm.weight", "one-dimensional") for i in range(layers)]
    skipped += [Skipped("model.embed_tokens.weight", "embedding (--include-embeddings audits it)")]
    skipped += [Skipped("lm_head.weight", "other shape: (49152, 576) and (49160, 576)", SkipKind.OTHER_SHAPE)]
    return Audit(
        base_source=base,
        tuned_source=tuned,
        tuned_kind="adapter" if rank is not None else "checkpoint",
        k=k,
        epsilon=epsilon,
        exact=exact,
        seconds=4.31,
        matrices=matrices,
        skipped=skipped,
        settings={"include": [], "exclude": ["lm_head*"], "device": "cpu"},
    )


def left_out(name: str, reason: str) -> Skipped:
    """A tensor that an audit has left out for this reason, of the kind that goes with it."""
    kinds = {
        "NaN": SkipKind.NOT_FINITE,
        "missing in": SkipKind.NO_COUNTERPART,
        "unchanged": SkipKind.UNCHANGED,
        "other shape": SkipKind.OTHER_SHAPE,
    }
    return Skipped(
        name, reason, next((kinds[start] for start in kinds if reason.startswith(start)), SkipKind.OTHER)
    )
