"""`modelwatch`, and `python -m monitor`, which is the same."""

from __future__ import annotations

import os


def main() -> None:
    # A thread of numpy's BLAS that has done its part of a sum looks for the next one without sleeping, 2**26 cycles long: beside
    # checks that take sums of 20,000 numbers that is a processor for nobody. OpenBLAS reads this when it is loaded, which
    # importing the command line does; the processes that the daemon starts inherit it. No sum is another for it.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # its least: 2**4 cycles
    from monitor.cli import main as run

    run()


if __name__ == "__main__":
    main()
