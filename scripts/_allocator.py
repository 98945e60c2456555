"""glibc's malloc, set to keep freed memory for the next micro-batch instead of giving it back to the system.

By default every tensor of 32 MiB and more, and at first every one of 128 KiB, is mapped for itself and unmapped when it
is freed: an update then waits for the system to clear the same pages again and again. Left out: other allocators, which
users preload themselves, and other systems.
"""

from __future__ import annotations

import ctypes
import os
import platform

#: options of ``mallopt`` (malloc.h) → bytes
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
#: glibc's own variables; where one is set, the user has decided
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


def keep_memory(limit: int = 2**29) -> bool:
    """Let malloc keep up to ``limit`` bytes of freed memory at the end of its heap → whether it does.

    Tensors below 32 MiB, glibc's largest threshold, come from the heap; larger ones are mapped as before.
    Nothing changes where glibc is not the C library, or where one of ``VARIABLES`` is set.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in VARIABLES):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, 2**25) and mallopt(TRIM_THRESHOLD, limit))
