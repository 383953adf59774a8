"""Files of settings as YAML."""

from pathlib import Path
from typing import Any

from ..errors import SettingError, missing_extra, os_reason


def read_text(path: str | Path, where: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingError(f"{where} cannot be read: {os_reason(error)}") from error


def read_yaml(text: str, where: str) -> Any:
    """Read a YAML text; SettingError if it is none, or gives a key twice."""
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("a file of settings", "pyyaml", "train") from error

    class Loader(yaml.SafeLoader):
        """A loader that refuses a key given twice, and names the value which it cannot construct.

        YAML's own keeps the last of equal keys silently, and ends in any error of Python.
        """

        def compose_scalar_node(self, anchor: Any) -> Any:
            node = super().compose_scalar_node(anchor)
            if any("\ud800" <= character <= "\udfff" for character in node.value):
                raise SettingError(
                    f"{where}: {_shown(node)} has half a character (a surrogate alone), which no file can store; write "
                    "the character itself"
                )
            return node

        def compose_mapping_node(self, anchor: Any) -> Any:
            # Without what a merge (``<<``) brings in later, which is no key of the mapping itself.
            node = super().compose_mapping_node(anchor)
            keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for tag, key in keys:
                if keys.count((tag, key)) > 1 and key != "<<":
                    line = node.start_mark.line + 1
                    raise SettingError(
                        f"{where}: {key!r} is given twice in what starts at line {line}; keep one"
                    )
            return node

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep=deep)
            except (yaml.YAMLError, RecursionError, SettingError):
                raise
            except Exception as error:  # a day of no month, an integer of 5,000 digits, !!bool abc, ...
                kind = str(node.tag).rpartition(":")[2]
                raise SettingError(
                    f"{where}: {_shown(node)} cannot be read as YAML's type {kind}; correct it, or write it in quotes "
                    "if it is text"
                ) from error

    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise SettingError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def _shown(node: Any) -> str:
    value = str(node.value)
    return f"{value if len(value) <= 40 else value[:40] + '...'!r} at line {node.start_mark.line + 1}"
