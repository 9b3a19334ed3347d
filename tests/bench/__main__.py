"""`python -m tests.bench [NAME ...] [--quick] [--write] [--data DIR]`: measures, prints, and with --write keeps the figures."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.harness import NAMES, Options, Row
from tests.bench.machine import describe
from tests.bench.results import replaced, section, table

RESULTS = Path(__file__).parent / "RESULTS.md"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Speed of the parts and of the whole.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="shorter runs and fewer of them")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {RESULTS.name}")
    parser.add_argument("--data", type=Path, help="folder of data sets, for `encoders` and `scoring` on more than vendored rows")
    parser.add_argument("--folder", type=Path, help="where stores are made for the time; default: the system's temporary folder")
    parser.add_argument("--peers", type=Path, help="folder for other tools' environments; without it ours is measured alone")
    parser.add_argument(
        "--patience", type=float, default=0.0, metavar="SECONDS", help="wait so long for a quiet machine, each time"
    )
    asked = parser.parse_args(argv)
    if unknown := [name for name in asked.names if name not in NAMES]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    names = [name for name in NAMES if name in asked.names or not asked.names]
    for name in names:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=asked.folder) as folder:
            options = Options("quick" if asked.quick else "full", Path(folder), asked.data, asked.peers, asked.patience)
            machine = describe(options.folder)
            title, rows = measure(name, options)
        taken, lasted = map(sum, zip(*options.others, strict=True))
        circumstances = f"{datetime.now(UTC):%Y-%m-%d}, other programs kept {taken / lasted:.2f} cores busy"
        print(f"\n{name}: {title}\n{machine}; {circumstances}\n\n{table(rows)}", flush=True)
        if asked.write:
            text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
            command = f"python -m tests.bench {name}" + " --quick" * asked.quick
            new = section(name, title, rows, command=command, machine=machine, circumstances=circumstances)
            RESULTS.write_text(replaced(text, name, new), encoding="utf-8")
    return 0


def measure(name: str, options: Options) -> tuple[str, list[Row]]:
    """What the benchmark `name` is about, in a line, and its rows."""
    module = importlib.import_module(f"tests.bench.{name}")
    return (module.__doc__ or name).partition("\n\n")[0].replace("\n", " "), module.run(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
