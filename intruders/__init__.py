"""What a fine-tuning did to the weights of a model: intruder dimensions, found, proved and mitigated.

Every command is a function here: ``intruders audit`` is :func:`audit`, ``fleet`` :func:`audit_fleet`, ``scale``
:func:`critical_scales`, :func:`choose_scale` and :func:`write_at_scale`, ``report`` :func:`write_report`, ``card``
:func:`write_card`, ``remedies`` :func:`compare_remedies`, ``sequence`` :func:`train_in_sequence`, ``study``
:func:`read_study` and :func:`run_study`, ``plugins`` :func:`load_plugins`, and ``cache`` :class:`DiskCache`; the
others bear the command's name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import IntrudersError
from .system import importing_process as importing_process  # now: others are imported after a fork
from .version import __version__

if TYPE_CHECKING:
    from .audits.audit import audit
    from .audits.audit_settings import AuditSettings, Compute
    from .audits.base_cache import DiskCache, MemoryCache
    from .audits.fleet.audit_fleet import audit_fleet
    from .audits.fleet.fleet_result import FleetAudit
    from .audits.preparation import PreparedBase
    from .audits.prepare_base import prepare
    from .audits.result.audit_result import Audit
    from .audits.result.records import AuditedMatrix
    from .audits.scales.critical_scales import critical_scales
    from .audits.scales.critical_scales_result import CriticalScales
    from .audits.update_alone import UpdateAlone, UpdateOverlap, compare_updates, inspect_update
    from .checkpoints.merges.verification import Verification
    from .checkpoints.merges.verify import verify
    from .checkpoints.pairing.inspect import Inspection, inspect
    from .data.columns import Columns
    from .experiments.attribution.attribute import attribute
    from .experiments.attribution.attribution import Attribution
    from .experiments.attribution.attribution_settings import AttributionSettings
    from .experiments.compare.compare_remedies import compare_remedies
    from .experiments.compare.compared import RemedyComparison
    from .experiments.compare.comparison_settings import ComparisonSettings
    from .experiments.heal.heal import heal
    from .experiments.heal.heal_settings import HealSettings
    from .experiments.heal.healing import Healing
    from .experiments.heal.scale_choice import ScaleChoice, choose_scale
    from .experiments.intervene.intervene import intervene
    from .experiments.intervene.sweep import InterventionSweep
    from .experiments.intervene.sweep_settings import SweepSettings
    from .experiments.sequence.sequence_result import SequenceResult
    from .experiments.sequence.train_in_sequence import train_in_sequence
    from .measures.evaluate import evaluate
    from .measures.evaluation import Evaluation
    from .measures.measure_settings import HarnessSettings, LossSettings, ScoreSettings
    from .mitigation.mitigate import mitigate
    from .mitigation.mitigation_result import Mitigation
    from .mitigation.write_at_scale import WrittenScale, write_at_scale
    from .models.loading_settings import Loading
    from .reports.audit.model_card import write_card
    from .reports.write_report import write_report
    from .studies.advice.advice import Advised
    from .studies.advice.advise import advise
    from .studies.results import Results, load_results
    from .studies.run_study import StudyOutcome, run_study
    from .studies.study import Study, read_study
    from .system.plugins import Plugin, load_plugins
    from .training.callback.callback import IntruderCallback
    from .training.callback.trace import read_trace
    from .training.finetune import finetune
    from .training.finetune_config import FinetuneConfig
    from .training.run_folder import RunFolder

__all__ = [
    "Advised",
    "Attribution",
    "AttributionSettings",
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
    "HealSettings",
    "Healing",
    "Inspection",
    "InterventionSweep",
    "IntruderCallback",
    "IntrudersError",
    "Loading",
    "LossSettings",
    "MemoryCache",
    "Mitigation",
    "Plugin",
    "PreparedBase",
    "RemedyComparison",
    "Results",
    "RunFolder",
    "ScaleChoice",
    "ScoreSettings",
    "SequenceResult",
    "Study",
    "StudyOutcome",
    "SweepSettings",
    "UpdateAlone",
    "UpdateOverlap",
    "Verification",
    "WrittenScale",
    "__version__",
    "advise",
    "attribute",
    "audit",
    "audit_fleet",
    "choose_scale",
    "compare_remedies",
    "compare_updates",
    "critical_scales",
    "evaluate",
    "finetune",
    "heal",
    "inspect",
    "inspect_update",
    "intervene",
    "load_plugins",
    "load_results",
    "mitigate",
    "prepare",
    "read_study",
    "read_trace",
    "run_study",
    "train_in_sequence",
    "verify",
    "write_at_scale",
    "write_card",
    "write_report",
]

# Names are loaded on first use, so that importing the package stays fast.
_HOMES = {
    "Advised": "studies.advice.advice",
    "Attribution": "experiments.attribution.attribution",
    "AttributionSettings": "experiments.attribution.attribution_settings",
    "Audit": "audits.result.audit_result",
    "AuditSettings": "audits.audit_settings",
    "AuditedMatrix": "audits.result.records",
    "Columns": "data.columns",
    "ComparisonSettings": "experiments.compare.comparison_settings",
    "Compute": "audits.audit_settings",
    "CriticalScales": "audits.scales.critical_scales_result",
    "DiskCache": "audits.base_cache",
    "Evaluation": "measures.evaluation",
    "FinetuneConfig": "training.finetune_config",
    "FleetAudit": "audits.fleet.fleet_result",
    "HarnessSettings": "measures.measure_settings",
    "HealSettings": "experiments.heal.heal_settings",
    "Healing": "experiments.heal.healing",
    "Inspection": "checkpoints.pairing.inspect",
    "InterventionSweep": "experiments.intervene.sweep",
    "IntruderCallback": "training.callback.callback",
    "Loading": "models.loading_settings",
    "LossSettings": "measures.measure_settings",
    "MemoryCache": "audits.base_cache",
    "Mitigation": "mitigation.mitigation_result",
    "Plugin": "system.plugins",
    "PreparedBase": "audits.preparation",
    "RemedyComparison": "experiments.compare.compared",
    "Results": "studies.results",
    "RunFolder": "training.run_folder",
    "ScaleChoice": "experiments.heal.scale_choice",
    "ScoreSettings": "measures.measure_settings",
    "SequenceResult": "experiments.sequence.sequence_result",
    "Study": "studies.study",
    "StudyOutcome": "studies.run_study",
    "SweepSettings": "experiments.intervene.sweep_settings",
    "UpdateAlone": "audits.update_alone",
    "UpdateOverlap": "audits.update_alone",
    "Verification": "checkpoints.merges.verification",
    "WrittenScale": "mitigation.write_at_scale",
    "advise": "studies.advice.advise",
    "attribute": "experiments.attribution.attribute",
    "audit": "audits.audit",
    "audit_fleet": "audits.fleet.audit_fleet",
    "choose_scale": "experiments.heal.scale_choice",
    "compare_remedies": "experiments.compare.compare_remedies",
    "compare_updates": "audits.update_alone",
    "critical_scales": "audits.scales.critical_scales",
    "evaluate": "measures.evaluate",
    "finetune": "training.finetune",
    "heal": "experiments.heal.heal",
    "inspect": "checkpoints.pairing.inspect",
    "inspect_update": "audits.update_alone",
    "intervene": "experiments.intervene.intervene",
    "load_plugins": "system.plugins",
    "load_results": "studies.results",
    "mitigate": "mitigation.mitigate",
    "prepare": "audits.prepare_base",
    "read_study": "studies.study",
    "read_trace": "training.callback.trace",
    "run_study": "studies.run_study",
    "train_in_sequence": "experiments.sequence.train_in_sequence",
    "verify": "checkpoints.merges.verify",
    "write_at_scale": "mitigation.write_at_scale",
    "write_card": "reports.audit.model_card",
    "write_report": "reports.write_report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'intruders' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
