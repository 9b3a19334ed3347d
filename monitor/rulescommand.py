"""`modelwatch rules`: the Prometheus rules for a config, as files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from monitor import configfile, data
from monitor.errors import ConfigError


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    rules = commands.add_parser("rules", help="Prometheus rules for a config").add_subparsers(required=True, metavar="COMMAND")
    render = rules.add_parser("render", help="print them, or write them into a folder")
    render.add_argument("--config", type=Path, required=True)
    render.add_argument("--out", type=Path, default=None, help="a folder, made if it is not there; other files in it stay")
    render.set_defaults(do=_render)
    diff = rules.add_parser("diff", help="what render would change in a folder; exit code 1 where it would")
    diff.add_argument("--config", type=Path, required=True)
    diff.add_argument("--out", type=Path, required=True, help="the folder that was rendered into")
    diff.set_defaults(do=_diff)


def _render(arguments: argparse.Namespace) -> int:
    files = _files(arguments.config)
    if arguments.out is None:
        for name, text in files.items():
            print(f"# --- {name}\n{text}", end="")
        return 0
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            # Prometheus may read the folder at any moment, and refuses all of it for half a file.
            part = arguments.out / f".{name}.part"
            part.write_text(text, encoding="utf-8")
            part.replace(arguments.out / name)
    except OSError as exc:
        raise ConfigError(
            [f"{exc.filename or arguments.out}: cannot be written ({exc.strerror}); give a folder of yours"]
        ) from exc
    print(f"{arguments.out}: {len(files)} files; then: promtool check rules {arguments.out}/*.rules.yml, and reload Prometheus")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from monitor import rendering

    try:
        lines = rendering.differences(_files(arguments.config), arguments.out)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError([f"{arguments.out}: cannot be read ({exc}); give the folder that was rendered into"]) from exc
    for line in lines:
        print(line)
    if not lines:
        print(f"{arguments.out}: as rendered", file=sys.stderr)
    return 1 if lines else 0


def _files(config: Path) -> dict[str, str]:
    from monitor import rendering

    return rendering.render(configfile.load(config), data.folder("rules"))
