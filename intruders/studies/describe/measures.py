"""What is measured of a finished run, as a study's file says under ``measure``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ...audits.audit_settings import check_epsilon, check_k
from ...errors import SettingError
from ...evaluation.measure_settings import SweepSettings
from ...mitigation.remedies.controls import check_control, check_scale
from .checks import items, mapping, number, refuse_unknown, switch, texts, whole


@dataclass(frozen=True)
class AuditSettings:
    """As in :func:`intruders.audit`."""

    k: int = 10
    epsilon: float = 0.5
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """The measures of every run of an experiment. The audit and the score on the run's own task are always made."""

    audit: AuditSettings = AuditSettings()
    loss_on: tuple[str, ...] = ()
    max_documents: int | None = None
    max_examples: int | None = 200
    window: int | None = None
    estimate: bool = False
    critical_scale: bool = False
    intervene: SweepSettings | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_from(value: Any, where: str) -> Measure:
    """What stands under ``measure``. SettingError for an unknown key or a value out of range."""
    given = mapping(value, where)
    refuse_unknown(given, [field.name for field in fields(Measure)], where)
    chosen: dict[str, Any] = {}
    for name, item in given.items():
        at = f"{where}: {name}"
        if name == "audit":
            chosen[name] = _audit(item, at)
        elif name == "intervene":
            chosen[name] = None if item is None or item is False else _intervene(item, at)
        elif name == "loss_on":
            chosen[name] = () if item is None or item == [] else texts(item, at, "a corpus")
        elif name in ("estimate", "critical_scale"):
            chosen[name] = switch(item, at)
        else:
            chosen[name] = None if item is None else whole(item, at, 1)
    return Measure(**chosen)


def _audit(value: Any, where: str) -> AuditSettings:
    given = mapping(value, where)
    refuse_unknown(given, [field.name for field in fields(AuditSettings)], where)
    for name in ("include", "exclude"):
        if name in given:
            given[name] = texts(given[name], f"{where}: {name}", "a pattern") if given[name] else ()
    if "epsilon" in given:
        given["epsilon"] = number(given["epsilon"], f"{where}: epsilon", above=0)
    settings = AuditSettings(**given)
    try:
        check_k(settings.k)
        check_epsilon(settings.epsilon)
    except SettingError as error:
        raise SettingError(f"{where}: {error}") from None
    return settings


def _intervene(value: Any, where: str) -> SweepSettings:
    given = {} if value is True else mapping(value, where)
    refuse_unknown(given, [field.name for field in fields(SweepSettings)], where)
    try:
        if "scales" in given:
            scales = items(given["scales"], f"{where}: scales", "scale")
            given["scales"] = tuple(number(scale, f"{where}: scales") for scale in scales)
            for scale in given["scales"]:
                check_scale(scale)
        if "controls" in given:
            given["controls"] = texts(given["controls"], f"{where}: controls", "a control")
            for control in given["controls"]:
                check_control(control)
    except SettingError as error:
        text = str(error)
        raise SettingError(text if text.startswith(where) else f"{where}: {text}") from None
    for name in ("max_documents", "max_examples"):
        if given.get(name) is not None:
            given[name] = whole(given[name], f"{where}: {name}", 1)
    return SweepSettings(**given)
