"""`python -m monitor.demo`: the daemon, Prometheus and Alertmanager on real data, until Ctrl-C. Writes into ./demo-data."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from monitor.demo.stop import Late, Stop, Stopped


def main(argv: Sequence[str] | None = None) -> int:
    stop = Stop()
    stop.listen()  # before anything slow is imported: Ctrl-C counts from the first moment
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)

    from monitor.demo import story
    from monitor.demo.replay import Refused
    from monitor.demo.stack import Died, MissingProgram

    try:
        with contextlib.ExitStack() as closing:
            stack = story.tell(stop, closing, root=arguments.folder, short=arguments.short)
            if not arguments.exit:
                story.stay(stack, stop)
    except Stopped:
        print("\nStopped: the daemon, Prometheus and Alertmanager have ended.")
    except (Died, Late, MissingProgram, Refused, OSError) as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m monitor.demo", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="end once the alerts fire, instead of waiting for Ctrl-C")
    parser.add_argument("--short", action="store_true", help="replay only the beginning")
    parser.add_argument("--folder", type=Path, default=Path("demo-data"), help="where to put it all (default: demo-data)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
