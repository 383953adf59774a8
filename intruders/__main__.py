"""``python -m intruders``: the command line."""

from .cli import main

main()
