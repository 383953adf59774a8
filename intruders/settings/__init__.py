"""Settings as values: one definition gives the check, the option, the YAML key, the column and the run id.

A setting is a field made by :data:`setting`; its type is its annotation. A class of settings is a frozen dataclass
that derives from :class:`Settings`. Its constructor checks the values, with the same errors for values from Python, a
YAML file or the options of a command.
"""

from .settings_class import (
    Setting,
    Settings,
    mapping,
    option_of,
    plain,
    refuse_unknown,
    setting,
    settings_of,
    short_names,
    shown,
    told_at,
)  # fmt: skip
from .yaml_text import read_text, read_yaml

__all__ = [
    "Setting", "Settings", "mapping", "option_of", "plain", "read_text", "read_yaml", "refuse_unknown", "setting",
    "settings_of", "short_names", "shown", "told_at",
]  # fmt: skip
