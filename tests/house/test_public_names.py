"""What can be imported from the package: every command's verb, and the values that verbs take and give."""

from __future__ import annotations

import intruders

VERB_OF_COMMAND = {
    "audit": "audit",
    "fleet": "audit_fleet",
    "report": "write_report",
    "card": "write_card",
    "inspect": "inspect",
    "verify": "verify",
    "mitigate": "mitigate",
    "scale": "critical_scales",
    "intervene": "intervene",
    "remedies": "compare_remedies",
    "finetune": "finetune",
    "heal": "heal",
    "attribute": "attribute",
    "evaluate": "evaluate",
    "sequence": "train_in_sequence",
    "advise": "advise",
    "cache": "DiskCache",
    "prepare": "prepare",
    "study": "run_study",
    "plugins": "load_plugins",
}


def test_every_command_has_its_verb() -> None:
    from intruders.cli.main import app

    commands = {(info.name or getattr(info.callback, "__name__", "")) for info in app.registered_commands}
    assert commands == set(VERB_OF_COMMAND)
    assert set(VERB_OF_COMMAND.values()) <= set(intruders.__all__)


def test_every_public_name_says_what_it_is() -> None:
    for name in intruders.__all__:
        if not name.startswith("__"):
            assert (getattr(intruders, name).__doc__ or "").strip(), name


def test_the_names_are_listed_once() -> None:
    assert sorted(intruders.__all__) == sorted({*intruders._HOMES, "IntrudersError", "__version__"})
