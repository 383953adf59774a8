"""The docstring of a class of settings with every setting's meaning, for ``help`` and the documentation."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable

from .field import Setting

_WIDTH = 100
_ATTRIBUTES, _EXAMPLES = "\n\nAttributes:\n", "\n\nExamples:"


def with_attributes(docstring: str, settings: Iterable[Setting]) -> str:
    """Return the docstring with every setting in its section of attributes, which comes before its examples.

    Args:
      docstring: of the class, as it is written there; its attributes are the fields that are no settings.
      settings: those of the class, with their names.
    """
    text, examples, rest = inspect.cleandoc(docstring).partition(_EXAMPLES)
    summary, _, others = text.partition(_ATTRIBUTES)
    lines = [*map(_line, settings), *([others] if others else [])]
    return summary + _ATTRIBUTES + "\n".join(lines) + examples + rest


def _line(each: Setting) -> str:
    default = "Required" if each.must_be_given else f"Default: {each.default_text}"
    return textwrap.fill(
        f"{each.name}: {each.meaning} {default}.",
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_on_hyphens=False,
    )
