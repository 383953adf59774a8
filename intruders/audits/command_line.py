"""Shell lines of this command: which models one can name, and the options of settings that differ from the defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ..settings import Settings, option_of, settings_of
from .result.audit_result import Audit

# How models that Python had in memory are named: "LlamaForCausalLM (HuggingFaceTB/SmolLM2-135M), adapter 'default'".
_IN_MEMORY = re.compile(r"state dict of .*|\w+ \(.*\)|.*, adapter '.*'")


def is_from_files(audit: Audit) -> bool:
    """Return whether a command can name the audit's models: not those that Python had in memory."""
    sources = (audit.base_source, audit.tuned_source)
    return audit.tuned_kind in ("adapter", "checkpoint", "stack") and not any(
        _IN_MEMORY.fullmatch(source) for source in sources
    )


def changed_options(settings: Settings, only: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the options that give ``settings``, without those that are the defaults.

    Args:
      settings: such as those of an audit.
      only: names of the settings that the command takes; all if None.

    Examples:
      >>> from intruders.audits.audit_settings import AuditSettings
      >>> changed_options(AuditSettings(k=4, include=("*.q_proj.*",)))
      ('--include', '*.q_proj.*', '--k', '4')
    """
    changed, known = settings.changed(), settings_of(type(settings))
    order = known if only is None else only
    return options_of({known[name].option_name: changed[name] for name in order if name in changed})


def options_of(given: Mapping[str, object]) -> tuple[str, ...]:
    """Return the options that give values by name: a switch for true or false, a repeated option for a list.

    Examples:
      >>> options_of({"data_seed": 0, "task": ["sst2", "rte"], "estimate": True})
      ('--data-seed', '0', '--task', 'sst2', '--task', 'rte', '--estimate')
    """
    return tuple(word for name, value in given.items() for word in _option(option_of(name), value))


def _option(option: str, value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield option if value else f"--no-{option[2:]}"
    elif isinstance(value, list):
        for item in value:
            yield from (option, str(item))
    else:
        yield from (option, f"{value:g}" if isinstance(value, float) else str(value))
