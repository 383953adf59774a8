"""Which matrices of a base the caller wants to see."""

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

from ...errors import SettingError
from ...settings import Settings, setting
from .names import is_embedding_or_head

_EMBEDDING = "embedding (use --include-embeddings)"
_patterns = partial(setting, (), item="pattern", metavar="PATTERN", panel="Intruders")
_switch = partial(setting, False, panel="Intruders", new_in="0.2", advanced=True)


@dataclass(frozen=True)
class Selection(Settings):
    """Shell patterns over the base's tensor names, and two switches."""

    include: tuple[str, ...] = _patterns(
        "Examine only tensors whose name matches this shell pattern; repeatable.", unless_given="default: all"
    )
    exclude: tuple[str, ...] = _patterns("Skip tensors whose name matches this shell pattern; repeatable.")
    include_embeddings: bool = _switch("Examine embeddings and output heads too.")
    split_fused: bool = _switch("Audit the q, k and v parts of fused weights as separate matrices.")

    def reason_to_leave_out(self, name: str) -> str | None:
        if self.include and not any(fnmatchcase(name, pattern) for pattern in self.include):
            return "not included"
        if any(fnmatchcase(name, pattern) for pattern in self.exclude):
            return "excluded"
        if is_embedding_or_head(name) and not self.include_embeddings:
            return _EMBEDDING
        return None

    def require_matches(self, names: Collection[str], source: str) -> None:
        """Raise SettingError for an ``include`` pattern that none of the tensors of ``source`` has."""
        for pattern in self.include:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise SettingError(
                    f"include '{pattern}' matches none of the {len(names)} tensors of '{source}'; "
                    "expected a pattern such as '*.q_proj.*'"
                )

    def require_some(self, matrices: Collection[str], source: str) -> None:
        """Raise SettingError for patterns that leave none of the matrices of ``source`` to audit."""
        reasons = {self.reason_to_leave_out(name) for name in matrices}
        if not (self.include or self.exclude) or not matrices or None in reasons:
            return
        given = [f"include '{pattern}'" for pattern in self.include]
        given += [f"exclude '{pattern}'" for pattern in self.exclude]
        what_to_do = "fix the patterns"
        if _EMBEDDING in reasons:
            what_to_do += ", or pass --include-embeddings for the embeddings among them"
        raise SettingError(
            f"{', '.join(given[:3])} leaves none of the {len(matrices)} matrices of '{source}'; "
            f"expected patterns that leave one or more; {what_to_do}"
        )


AS_AUDITED = Selection()
# Also embeddings and heads, which an audit leaves out: an update is complete only with them.
EVERY_MATRIX = Selection(include_embeddings=True)
