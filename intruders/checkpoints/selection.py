"""Which matrices of a base the caller wants to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import SettingError
from .checkpoint import Checkpoint
from .names import is_embedding_or_head


@dataclass(frozen=True)
class Selection:
    """Shell patterns over the base's tensor names, and two switches."""

    include: Sequence[str] = ()  # only these; all, when empty
    exclude: Sequence[str] = ()
    include_embeddings: bool = False
    split_fused: bool = False

    def reason_to_leave_out(self, name: str) -> str | None:
        """Why a tensor is not wanted, or None when it is."""
        if self.include and not any(fnmatchcase(name, pattern) for pattern in self.include):
            return "not included"
        if any(fnmatchcase(name, pattern) for pattern in self.exclude):
            return "excluded"
        if is_embedding_or_head(name) and not self.include_embeddings:
            return "embedding (use --include-embeddings)"
        return None

    def require_matches(self, base: Checkpoint) -> None:
        """Raise SettingError for an ``include`` pattern that no tensor of the base has."""
        for pattern in self.include:
            if not any(fnmatchcase(name, pattern) for name in base.names()):
                raise SettingError(
                    f"include '{pattern}' matches none of the {len(base.tensors)} tensors of "
                    f"'{base.source}'; "
                    "expected a pattern such as '*.q_proj.*'"
                )
