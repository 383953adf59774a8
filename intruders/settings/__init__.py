"""Settings as values: one definition gives the check, the option, the YAML key, the column and the run id.

A setting is a field made by :data:`setting`; its type is its annotation. A class of settings is a frozen dataclass
that derives from :class:`Settings`. Its constructor checks the values, with the same errors for values from Python, a
YAML file or the options of a command.
"""

from .settings_class import Setting, Settings, option_of, setting, settings_of

__all__ = ["Setting", "Settings", "option_of", "setting", "settings_of"]
