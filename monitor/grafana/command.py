"""`modelwatch grafana`: what the daemon does for Grafana by itself, by hand."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monitor import configfile
from monitor.errors import ConfigError
from monitor.grafana import wanted
from monitor.grafana.client import Grafana
from monitor.grafana.sync import Step, done, plan, stale, sync
from monitor.terminal import harmless

MOST_LINES = 40  # of one dashboard
DIFFERS, FAILED = 1, 2


def add_to(commands: Any) -> None:
    """The arguments of the command. `commands`: what `add_subparsers` gives."""
    parser = commands.add_parser("grafana", help="keep Grafana's dashboards in step by hand", description=__doc__)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    sync_ = _action(actions, "sync", _sync, "make folder, datasource and dashboards what they should be")
    sync_.add_argument("--force", action="store_true", help="dashboards that a person changed as well")
    differ = _action(actions, "diff", _diff, "say what sync would change; exit code 1 where there is something, 2 on failure")
    differ.add_argument("--force", action="store_true", help="what sync --force would change")
    _action(actions, "remove-alerts", _remove, "take our alert rules out of Grafana, once grafana.alerts is false")


def _action(actions: Any, name: str, do: Callable[[argparse.Namespace], int], help: str) -> Any:
    parser = actions.add_parser(name, help=help, description=help)
    parser.add_argument("--config", type=Path, default=Path("modelwatch.yaml"), help="default: modelwatch.yaml")
    parser.set_defaults(do=do, force=False)
    return parser


@contextmanager
def _asked(arguments: argparse.Namespace) -> Iterator[tuple[Grafana, wanted.Wanted]]:
    """
    Raises:
        ConfigError: the file has no `grafana`, or is wrong.
    """
    config = configfile.load(arguments.config)
    if config.grafana is None:
        raise ConfigError([f"{arguments.config}: grafana: is not there; give url and token, see monitor/README.md, Grafana"])
    grafana = Grafana(config.grafana)
    try:
        yield grafana, wanted.of(config, force=arguments.force)
    finally:
        grafana.close()


def _sync(arguments: argparse.Namespace) -> int:
    with _asked(arguments) as (grafana, want):
        states = {_told(step, done=True) for step in sync(grafana, want)}
    return FAILED if "failed" in states else 0


def _diff(arguments: argparse.Namespace) -> int:
    states = set()
    with _asked(arguments) as (grafana, want):
        for step in plan(grafana, want):
            states.add(_told(step, done=False))
            if step.ends:
                break
    return FAILED if "failed" in states else DIFFERS if states & {"create", "update", "remove"} else 0


def _remove(arguments: argparse.Namespace) -> int:
    with _asked(arguments) as (grafana, want):
        if want.groups:
            raise ConfigError([f"{arguments.config}: grafana.alerts: is true, so they would come back; make it false first"])
        states = {_told(step, done=True) for step in done(stale(grafana, want))}
    return FAILED if "failed" in states else 0


def _told(step: Step, *, done: bool) -> str:
    words = {
        "same": "in step",
        "create": "created" if done else "would be created",
        "update": "updated" if done else "would be updated",
        "remove": "removed" if done else "would be removed",
        "kept": "left as it is",
        "failed": "failed",
    }
    told = f": {step.told}" if step.told else ""
    print(harmless(f"{step.kind} {step.name}: {words[step.state]}{told}"))
    for line in step.lines[:MOST_LINES]:
        print(harmless(f"    {line}"))
    if len(step.lines) > MOST_LINES:
        print(f"    and {len(step.lines) - MOST_LINES} more")
    return step.state
