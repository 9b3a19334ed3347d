"""Memory that is freed goes back to the system."""

from __future__ import annotations

import subprocess
import sys

# Blocks of 1 MiB between small ones that stay: a heap could not give them back, whatever is freed behind it.
HELD_AFTER = """
import threading
from monitor import allocator

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def learn():  # as glibc does from the first large block that is freed
    for _ in range(4):
        bytes(4 * 2**20)

def hold(pinned):
    learn()
    held = []
    for _ in range(100):
        held.append(b"x" * 2**20)
        pinned.append(b"y" * 2000)  # too large for Python's own allocator
    held.clear()

if {mended}:
    assert allocator.return_large_blocks()
before, pinned = resident(), []
thread = threading.Thread(target=hold, args=(pinned,))
thread.start(); thread.join()
print((resident() - before) // 2**20)
"""


def held_after(*, mended: bool) -> int:
    """MiB that a fresh process has more than before, after a thread held 100 blocks of 1 MiB."""
    program = HELD_AFTER.replace("{mended}", str(mended))
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def test_large_blocks_that_a_thread_has_freed_are_nobodys_memory() -> None:
    assert held_after(mended=True) < 5
    assert held_after(mended=False) > 50  # else there is nothing to mend, and this module can go
