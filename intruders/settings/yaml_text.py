"""Files of settings as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import SettingError, missing_extra


def read_text(path: str | Path, where: str) -> str:
    """Read a file of settings as text."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingError(f"{where} cannot be read: {reason}") from error


def read_yaml(text: str, where: str) -> Any:
    """Read a YAML text.

    Raises:
      SettingError: the text is not YAML, or gives a key twice.
      MissingDependencyError: PyYAML is missing.
    """
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("a file of settings", "pyyaml", "train") from error

    class Loader(yaml.SafeLoader):
        """A loader that refuses equal keys: YAML's own keeps the last of them and drops the first silently."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key in keys:
                if keys.count(key) > 1 and key != "<<":
                    line = node.start_mark.line + 1
                    raise SettingError(
                        f"{where}: {key!r} is given twice in what starts at line {line}; keep one"
                    )
            return dict(super().construct_mapping(node, deep=deep))

    try:
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise SettingError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
