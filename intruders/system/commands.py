"""Shell lines of this command: their words, options of values and settings, and how a line is broken."""

import shlex
from collections.abc import Iterator, Mapping, Sequence

from ..settings import Settings, option_of, settings_of


def command_of(verb: str, *words: str, **options: object) -> tuple[str, ...]:
    """Return the words of a command: its name, what it is given, and the options whose value is not None.

    Examples:
      >>> command_of("evaluate", "healed", base="smollm2-135m", loss_on=["pydoc"], max_examples=None)
      ('intruders', 'evaluate', 'healed', '--base', 'smollm2-135m', '--loss-on', 'pydoc')
    """
    given = {name: value for name, value in options.items() if value is not None}
    return ("intruders", verb, *words, *options_of(given))


def changed_options(settings: Settings, only: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the options that give ``settings``, without the defaults; ``only`` those that the command takes, if given.

    Examples:
      >>> from intruders.audits.audit_settings import AuditSettings
      >>> changed_options(AuditSettings(k=4, include=("*.q_proj.*",)))
      ('--include', '*.q_proj.*', '--k', '4')
    """
    changed, known = settings.changed(), settings_of(type(settings))
    order = known if only is None else only
    return options_of({known[name].option: changed[name] for name in order if name in changed})


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


def shell_lines(command: Sequence[str], width: int) -> list[str]:
    """Return a shell command in lines of at most `width` characters that end with a backslash.

    Only an option with its value, or another word, that is longer than a line makes a longer one.
    """
    parts: list[str] = []
    for word in command:
        if parts and parts[-1].startswith("-") and " " not in parts[-1] and not word.startswith("-"):
            parts[-1] += f" {shlex.quote(word)}"
        else:
            parts.append(shlex.quote(word))
    lines: list[str] = []
    current = ""
    for index, part in enumerate(parts):
        end = " \\" if index < len(parts) - 1 else ""
        if current and len(f"{current} {part}{end}") > width:
            lines.append(f"{current} \\")
            current = f"    {part}"
        else:
            current += f" {part}" if current else part
    return [*lines, current] if current else []
