"""What a fine-tuning did to the weights of a model: intruder dimensions, found, proved and mitigated.

Every command is a function here: ``intruders audit`` is :func:`audit`, ``scale`` :func:`critical_scales`, ``report``
:func:`write_report`, ``card`` :func:`write_card`, ``remedies`` :func:`compare_remedies`, ``sequence``
:func:`train_in_sequence`, ``study`` :func:`read_study` and :func:`run_study`, and ``cache`` :class:`DiskCache`; the
others bear the command's name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import IntrudersError
from .version import __version__

if TYPE_CHECKING:
    from .audits.audit import audit
    from .audits.audit_fleet import audit_fleet
    from .audits.audit_result import Audit
    from .audits.audit_settings import AuditSettings, Compute
    from .audits.base_cache import DiskCache, MemoryCache
    from .audits.critical_scales import critical_scales
    from .audits.critical_scales_result import CriticalScales
    from .audits.fleet_result import FleetAudit
    from .audits.prepare_base import PreparedBase, prepare
    from .audits.records import AuditedMatrix
    from .checkpoints.inspect import inspect
    from .checkpoints.merges.verification import Verification
    from .checkpoints.verify import verify
    from .data.columns import Columns
    from .evaluation.evaluate import Evaluation, evaluate
    from .evaluation.intervene import intervene
    from .evaluation.measure_settings import HarnessSettings, LossSettings, ScoreSettings, SweepSettings
    from .evaluation.side_by_side.compare_remedies import compare_remedies
    from .evaluation.side_by_side.compared import RemedyComparison
    from .evaluation.side_by_side.comparison_settings import ComparisonSettings
    from .evaluation.sweep import InterventionSweep
    from .evaluation.train_in_sequence import train_in_sequence
    from .mitigation.mitigate import mitigate
    from .mitigation.mitigation_result import Mitigation
    from .reports.model_card import write_card
    from .reports.write_report import write_report
    from .studies.advice.advise import advise
    from .studies.describe.study import read_study
    from .studies.run_study import run_study
    from .studies.tables.results import load_results
    from .training.callback import IntruderCallback
    from .training.finetune import finetune
    from .training.finetune_config import FinetuneConfig
    from .training.run_folder import RunFolder
    from .training.trace import read_trace

__all__ = [
    "Audit",
    "AuditSettings",
    "AuditedMatrix",
    "Columns",
    "ComparisonSettings",
    "Compute",
    "CriticalScales",
    "DiskCache",
    "Evaluation",
    "FinetuneConfig",
    "FleetAudit",
    "HarnessSettings",
    "InterventionSweep",
    "IntruderCallback",
    "IntrudersError",
    "LossSettings",
    "MemoryCache",
    "Mitigation",
    "PreparedBase",
    "RemedyComparison",
    "RunFolder",
    "ScoreSettings",
    "SweepSettings",
    "Verification",
    "__version__",
    "advise",
    "audit",
    "audit_fleet",
    "compare_remedies",
    "critical_scales",
    "evaluate",
    "finetune",
    "inspect",
    "intervene",
    "load_results",
    "mitigate",
    "prepare",
    "read_study",
    "read_trace",
    "run_study",
    "train_in_sequence",
    "verify",
    "write_card",
    "write_report",
]

# Names are loaded on first use, so that importing the package stays fast.
_HOMES = {
    "Audit": "audits.audit_result",
    "AuditSettings": "audits.audit_settings",
    "AuditedMatrix": "audits.records",
    "Columns": "data.columns",
    "ComparisonSettings": "evaluation.side_by_side.comparison_settings",
    "Compute": "audits.audit_settings",
    "CriticalScales": "audits.critical_scales_result",
    "DiskCache": "audits.base_cache",
    "Evaluation": "evaluation.evaluate",
    "FinetuneConfig": "training.finetune_config",
    "FleetAudit": "audits.fleet_result",
    "HarnessSettings": "evaluation.measure_settings",
    "InterventionSweep": "evaluation.sweep",
    "IntruderCallback": "training.callback",
    "LossSettings": "evaluation.measure_settings",
    "MemoryCache": "audits.base_cache",
    "Mitigation": "mitigation.mitigation_result",
    "PreparedBase": "audits.prepare_base",
    "RemedyComparison": "evaluation.side_by_side.compared",
    "RunFolder": "training.run_folder",
    "ScoreSettings": "evaluation.measure_settings",
    "SweepSettings": "evaluation.measure_settings",
    "Verification": "checkpoints.merges.verification",
    "advise": "studies.advice.advise",
    "audit": "audits.audit",
    "audit_fleet": "audits.audit_fleet",
    "compare_remedies": "evaluation.side_by_side.compare_remedies",
    "critical_scales": "audits.critical_scales",
    "evaluate": "evaluation.evaluate",
    "finetune": "training.finetune",
    "inspect": "checkpoints.inspect",
    "intervene": "evaluation.intervene",
    "load_results": "studies.tables.results",
    "mitigate": "mitigation.mitigate",
    "prepare": "audits.prepare_base",
    "read_study": "studies.describe.study",
    "read_trace": "training.trace",
    "run_study": "studies.run_study",
    "train_in_sequence": "evaluation.train_in_sequence",
    "verify": "checkpoints.verify",
    "write_card": "reports.model_card",
    "write_report": "reports.write_report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'intruders' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
