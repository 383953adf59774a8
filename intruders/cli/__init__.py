"""The command line: parse, call, print. Every command has a file of its own in this folder."""

from .main import main

__all__ = ["main"]
