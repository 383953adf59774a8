"""What a fine-tuning did to the weights of a model: intruder dimensions, found, proved and mitigated.

Every command is a function here: ``intruders audit`` is :func:`audit`, ``fleet`` :func:`audit_fleet`, ``scale``
:func:`critical_scales`, :func:`choose_scale` and :func:`write_at_scale`, ``report`` :func:`write_report`, ``card``
:func:`write_card`, ``remedies`` :func:`compare_remedies`, ``sequence`` :func:`train_in_sequence`, ``study``
:func:`read_study` and :func:`run_study`, ``plugins`` :func:`load_plugins`, ``cache`` :class:`DiskCache`, and
``verify --endpoint`` :func:`verify_served`; the others bear the command's name.
"""

from importlib import import_module
from typing import Any

from .errors import IntrudersError as IntrudersError
from .system import this_process as this_process  # now: others are imported after a fork
from .version import __version__ as __version__

# Names are loaded on first use, so that importing the package stays fast. __init__.pyi tells type checkers of them.
_HOMES = {
    "Attribution": "experiments.attribution",
    "AttributionSettings": "experiments.experiment_settings",
    "Audit": "audits.result.audit_result",
    "AuditSettings": "audits.audit_settings",
    "AuditedMatrix": "audits.result.records",
    "Columns": "data.columns",
    "ComparisonSettings": "experiments.experiment_settings",
    "Compute": "audits.audit_settings",
    "CriticalScales": "audits.scales.critical_scales_result",
    "DiskCache": "audits.base_cache",
    "Evaluation": "measures.evaluation",
    "FinetuneConfig": "training.finetune_config",
    "FleetAudit": "audits.fleet.fleet_result",
    "HarnessSettings": "measures.measure_settings",
    "HealSettings": "experiments.experiment_settings",
    "Healing": "experiments.healing",
    "Inspection": "checkpoints.pairing.inspect",
    "InterventionSweep": "experiments.sweep",
    "IntruderCallback": "training.callback.callback",
    "Loading": "models.loading_settings",
    "LossSettings": "measures.measure_settings",
    "MemoryCache": "audits.base_cache",
    "Mitigation": "mitigation.mitigation_result",
    "Plugin": "system.plugins",
    "PreparedBase": "audits.prepare_base",
    "RemedyComparison": "experiments.remedy_comparison",
    "Results": "studies.results",
    "RunFolder": "training.run_folder",
    "ScaleChoice": "experiments.choose_scale",
    "ScoreSettings": "measures.measure_settings",
    "SequenceResult": "training.sequence_result",
    "ServedVerification": "measures.verify_served",
    "Study": "studies.study",
    "StudyOutcome": "studies.run_study",
    "SweepSettings": "experiments.experiment_settings",
    "UpdateAlone": "audits.update_alone",
    "UpdateOverlap": "audits.update_alone",
    "Verification": "checkpoints.merges.verify",
    "WrittenScale": "mitigation.write_at_scale",
    "attribute": "experiments.attribute",
    "audit": "audits.audit",
    "audit_fleet": "audits.fleet.audit_fleet",
    "choose_scale": "experiments.choose_scale",
    "compare_remedies": "experiments.compare_remedies",
    "compare_updates": "audits.update_alone",
    "critical_scales": "audits.scales.critical_scales",
    "evaluate": "measures.evaluate",
    "finetune": "training.finetune",
    "heal": "experiments.heal",
    "inspect": "checkpoints.pairing.inspect",
    "inspect_update": "audits.update_alone",
    "intervene": "experiments.intervene",
    "load_plugins": "system.plugins",
    "load_results": "studies.results",
    "mitigate": "mitigation.mitigate",
    "prepare": "audits.prepare_base",
    "read_study": "studies.study",
    "read_trace": "training.callback.trace",
    "run_study": "studies.run_study",
    "train_in_sequence": "training.train_in_sequence",
    "verify": "checkpoints.merges.verify",
    "verify_served": "measures.verify_served",
    "write_at_scale": "mitigation.write_at_scale",
    "write_card": "reports.model_card",
    "write_report": "reports.write_report",
}

__all__ = sorted([*_HOMES, "IntrudersError", "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'intruders' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
