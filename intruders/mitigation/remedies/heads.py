"""Attention heads taken back to the base (Diffract, ICML 2026)."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ...checkpoints.pairing.pairing import PairedMatrix
from ...checkpoints.stored.matrices import fused_rows, settings_of
from ...errors import SettingError
from ...linalg.low_rank import LowRank
from ...settings import setting
from .changes import Change
from .remedy import Case, PublishedRemedy

# The attention module, and what it calls its projections; "dense" and "c_proj" are outputs in BERT and GPT-2.
_ATTENTION = re.compile(
    r"(?P<module>.*?\w*att(?:n|ention)\w*)\.(?:.+\.)?(?P<part>\w+)\.weight$", re.IGNORECASE
)
_OF_ROWS = {"q_proj", "k_proj", "v_proj", "query", "key", "value", "q_lin", "k_lin", "v_lin", "q", "k", "v"}
_OF_COLUMNS = {"o_proj", "out_proj", "out_lin", "dense", "c_proj", "o"}
_COUNTS = ("num_attention_heads", "n_head", "num_heads", "n_heads")

Head = tuple[str, int]  # an attention module, and which of its heads


@dataclass(frozen=True)
class HeadBlock:
    """The part of one matrix that belongs to one head."""

    matrix: str
    places: Tensor  # of rows, or of columns
    is_of_rows: bool

    def square(self, matrix: Tensor) -> float:
        part = matrix[self.places] if self.is_of_rows else matrix[:, self.places]
        return float(part.double().square().sum())


@dataclass(frozen=True)
class Heads(PublishedRemedy):
    """``W' = W0`` in the rows of q, k and v and the columns of o that belong to some heads.

    Those with the least ``||D_h||_F / ||W0_h||_F`` over their tuned matrices return to the base, a share of all heads
    of the model, rounded down. The paper's criterion could not be read; it and the share of 0.25 are this package's.
    Query heads that share keys and values count as one head.
    """

    name = "heads"
    strength = "quota"
    strengths = (0.25, 0.5, 0.75)
    source = "Diffract, ICML 2026; the choice of heads: ours"
    in_words = "{quota:.0%} of the attention heads taken back to the base, the least changed first"

    quota: float = setting(
        0.25, "Share of the attention heads that return to the base, 0 to 1.", least=0, most=1
    )
    # By matrix.
    blocks: Mapping[str, Sequence[HeadBlock]] = field(default_factory=dict, repr=False, compare=False)

    def fitted(self, pairs: Sequence[PairedMatrix], config: Mapping[str, Any] | None) -> "Heads":
        heads: dict[Head, list[HeadBlock]] = {}
        squares: dict[Head, list[list[float]]] = {}
        for pair in pairs:
            blocks = _blocks(pair, config)
            loaded = pair.load() if blocks else None
            if loaded is None:
                continue
            wide = loaded.widened()
            both = wide.update.dense(), wide.base
            for head, block in blocks.items():
                heads.setdefault(head, []).append(block)
                squares.setdefault(head, []).append([block.square(matrix) for matrix in both])
        if not heads:
            raise SettingError(
                "remedy 'heads' found no attention projections among the tuned matrices, or no number of heads in the "
                "base's config; choose another remedy"
            )
        moved = {head: _ratio(sizes) for head, sizes in squares.items()}
        count = math.floor(self.quota * len(heads) + 1e-9)
        by_matrix: dict[str, list[HeadBlock]] = {}
        for head in self.in_order(list(heads), moved)[:count]:
            for block in heads[head]:
                by_matrix.setdefault(block.matrix, []).append(block)
        return replace(self, blocks=by_matrix)

    def in_order(self, heads: Sequence[Head], moved: Mapping[Head, float]) -> list[Head]:
        """The heads, those that return first in front, from how far each was moved."""
        return sorted(heads, key=lambda head: moved[head])

    def change(self, case: Case) -> Change:
        blocks = self.blocks.get(case.matrix.name, ())
        if not blocks:
            return Change()
        places = torch.cat([block.places for block in blocks]).to(case.update.device)
        update = case.update.double()
        if isinstance(update, LowRank):
            left, right = update.left.clone(), update.right.clone()
            side = left if blocks[0].is_of_rows else right.mT
            side[places] = 0
            return Change(share=0.0, added=LowRank(left, right))
        if blocks[0].is_of_rows:
            chosen = -one_hot(places, update.shape[0]).double()
            return Change(added=LowRank(chosen.mT, update.matrix[places]))
        chosen = -one_hot(places, update.shape[1]).double()
        return Change(added=LowRank(update.matrix[:, places], chosen))


def _ratio(sizes: Sequence[Sequence[float]]) -> float:
    update, base = (math.fsum(part) for part in zip(*sizes, strict=True))
    return math.sqrt(update / base) if base > 0 else math.inf


def _blocks(pair: PairedMatrix, config: Mapping[str, Any] | None) -> dict[Head, HeadBlock]:
    """Return the parts of a matrix by head; none if it is not a projection of an attention."""
    match = _ATTENTION.match(pair.name)
    settings = settings_of(pair.name, config)
    heads = next((settings[name] for name in _COUNTS if isinstance(settings.get(name), int)), None)
    if match is None or heads is None:
        return {}
    count = settings.get("num_key_value_heads") or heads
    rows, columns = pair.shape
    fused = fused_rows(pair.name, rows, config)
    if fused is not None and set(fused) == {"q", "k", "v"}:
        parts = list(fused.values())
    elif match["part"] in _OF_ROWS:
        parts = [torch.arange(rows)]
    elif match["part"] in _OF_COLUMNS:
        parts = [torch.arange(columns)]
    else:
        return {}
    if any(len(part) % count for part in parts):
        return {}
    is_of_rows = match["part"] not in _OF_COLUMNS
    by_head = torch.cat([part.reshape(count, -1) for part in parts], dim=1)
    return {(match["module"], head): HeadBlock(pair.name, by_head[head], is_of_rows) for head in range(count)}
