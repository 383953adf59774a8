"""This process: which one imported the package, how it takes memory, and the statuses that it ends with.

By default glibc gives a large block back to the system as soon as it is freed, and the kernel then clears the pages of
the next one as they are touched. A step of a training on a processor frees and takes hundreds of megabytes.
"""

import os
from enum import IntEnum

# Parameters of glibc's mallopt (malloc.h) and their values in bytes. All of them are set: one alone makes glibc stop
# adapting the others.
_KEPT = {
    -3: 2**27,  # M_MMAP_THRESHOLD: larger blocks are the system's
    -1: 2**27,  # M_TRIM_THRESHOLD: as much may be free at the end of the heap
    -2: 2**24,  # M_TOP_PAD: by so much the heap grows at once
}
# A user who tunes the allocator knows better.
_OF_A_USER = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def use_large_pages() -> None:
    """Let torch ask Linux for pages of 2 MiB, here and in processes started from here, if it is not imported yet."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> None:
    """Keep freed memory for what is allocated next, up to 128 MiB; nothing happens without glibc."""
    if any(name in os.environ for name in _OF_A_USER):
        return
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    for parameter, size in _KEPT.items():
        mallopt(parameter, size)


class ExitStatus(IntEnum):
    """The exit statuses of the commands."""

    DONE = 0
    FAILED = 1  # done, and the answer is no: more than --fail-above, a wrong merge, a failed run, an ignored adapter
    # Nothing was done: an option, a file or a model cannot be used, or of a fleet no adapter; one line says what to do.
    REFUSED = 2
    NOT_TOLD = 3  # verify alone: rounding or quantization hides the answer
    FAULT = 70  # a fault of intruders, with a traceback; sysexits.h calls it EX_SOFTWARE
    INTERRUPTED = 130  # Ctrl-C; 128 and the number of the signal, as a shell says it
    TERMINATED = 143  # SIGTERM, as a scheduler sends it before it kills


IMPORTING_PROCESS = os.getpid()
