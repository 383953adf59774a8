"""The process that imported the package: another one that has it in memory was forked from that one."""

from __future__ import annotations

import os

IMPORTING_PROCESS = os.getpid()
