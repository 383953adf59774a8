"""Docstrings as this website shows them: Sphinx's roles become links, and classes of settings list their settings."""

import inspect
import re
from typing import Any

import griffe

import intruders
from intruders.settings import Settings

_ROLE = re.compile(r":(?:func|mod|class|meth|attr|data|exc):`(~?)([\w.]+)`")


class Docstrings(griffe.Extension):
    """Change the docstrings of the package and of everything in it."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Take those of settings from the classes, which add to them, and then put links in the place of roles."""
        for name in intruders.__all__:
            public = getattr(intruders, name)
            if isinstance(public, type) and issubclass(public, Settings):
                written = pkg[public.__module__.removeprefix(f"{pkg.name}.")][public.__name__].docstring
                written.value = inspect.getdoc(public)
        _link_roles(pkg, pkg.name)


def _link_roles(parent: griffe.Object, package: str) -> None:
    if parent.docstring is not None:
        parent.docstring.value = _ROLE.sub(
            lambda role: _link(role[2], package, is_short=bool(role[1])), parent.docstring.value
        )
    for member in parent.members.values():
        if isinstance(member, griffe.Object):  # and no alias: what it names is changed where it is
            _link_roles(member, package)


def _link(name: str, package: str, *, is_short: bool) -> str:
    """Return a link to what a page describes; another name stays code."""
    path = name if name.partition(".")[0] == package else f"{package}.{name.removeprefix('.')}"
    shown = name.rpartition(".")[2] if is_short else name
    return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'
