"""What a fine-tuning did to the weights of a model: intruder dimensions, found, proved and mitigated."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import IntrudersError
from .version import __version__

if TYPE_CHECKING:
    from .audits.audit import audit
    from .audits.audit_result import Audit
    from .audits.critical_scales import critical_scales
    from .evaluation.evaluate import evaluate
    from .evaluation.intervene import intervene
    from .mitigation.mitigate import mitigate
    from .training.callback import IntruderCallback
    from .training.finetune import finetune
    from .training.finetune_config import FinetuneConfig

__all__ = [
    "Audit",
    "FinetuneConfig",
    "IntruderCallback",
    "IntrudersError",
    "__version__",
    "audit",
    "critical_scales",
    "evaluate",
    "finetune",
    "intervene",
    "mitigate",
]

# Names are loaded on first use, so that importing the package stays fast.
_HOMES = {
    "Audit": "audits.audit_result",
    "FinetuneConfig": "training.finetune_config",
    "IntruderCallback": "training.callback",
    "audit": "audits.audit",
    "critical_scales": "audits.critical_scales",
    "evaluate": "evaluation.evaluate",
    "finetune": "training.finetune",
    "intervene": "evaluation.intervene",
    "mitigate": "mitigation.mitigate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'intruders' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
