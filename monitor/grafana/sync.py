"""What differs between Grafana and what should be there, and how it is mended. Doing it twice does nothing the second time.

Nobody's work is overwritten in silence. The message of the version that we save names the hash of what we wanted; where the last
version has another message, somebody else saved it since. (Grafana brings dashboards to newer schemas by itself, so what it gives
back cannot tell.) A person's dashboard is *kept* as it is, unless `overwrite`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from monitor.grafana import alerts
from monitor.grafana.client import Grafana, GrafanaError
from monitor.grafana.config import Folder
from monitor.grafana.difference import differences
from monitor.grafana.wanted import Dashboard, Wanted

MARK = "modelwatch sync "
READ_ONLY = "it is provisioned from a file of Grafana's, which alone can change it"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing. `state`: `same`; `create`, `update` or `remove`, which `do` does; `kept`, as another has charge of it; `failed`.
    `reason` is a word of a small set, for `kept` and `failed`."""

    kind: Literal["folder", "datasource", "dashboard", "rules"]
    name: str
    state: Literal["same", "create", "update", "remove", "kept", "failed"]
    told: str = ""
    reason: str = ""
    lines: tuple[str, ...] = ()
    do: Callable[[], None] | None = None
    ends: bool = False  # nothing else can be done either
    seconds: float | None = None  # so long Grafana wants to be left alone


def plan(grafana: Grafana, wanted: Wanted) -> Iterator[Step]:
    """What there is to do, one thing at a time: what comes first must be done before the next is asked for."""
    yield from _step("folder", wanted.folder.title, lambda: _folder(grafana, wanted.folder))
    for source in wanted.datasources:
        yield from _step("datasource", source["name"], lambda source=source: _datasource(grafana, source, force=wanted.force))  # type: ignore[misc]
    for one in wanted.dashboards:
        yield from _step("dashboard", one.title, lambda one=one: _dashboard(grafana, wanted, one))  # type: ignore[misc]
    for name, why in wanted.left_out.items():
        yield Step("rules", name, "kept", f"not in Grafana: {why}", "left_out")
    if wanted.groups:
        yield from stale(grafana, wanted)
    for group in wanted.groups:
        yield from _step("rules", group["title"], lambda group=group: _rules(grafana, wanted, group))  # type: ignore[misc]


def sync(grafana: Grafana, wanted: Wanted) -> Iterator[Step]:
    """Do it; each step as it came out. Ends early where all that follow would fail likewise."""
    return done(plan(grafana, wanted))


def done(steps: Iterable[Step]) -> Iterator[Step]:
    for step in steps:
        outcome = step
        if step.do is not None:
            try:
                step.do()
            except GrafanaError as exc:
                outcome = _failed(step.kind, step.name, exc)
                if exc.reason == "changed":  # between our look and our save
                    outcome = Step(step.kind, step.name, "kept", f"it was changed just now: {exc}", "edited")
        yield outcome
        if outcome.ends:
            return


def stale(grafana: Grafana, wanted: Wanted) -> Iterator[Step]:
    """Alert rules of ours that are no longer wanted: Grafana's pages cannot delete what came by this API. Ours are those in the
    folder that came by it and have a uid such as we give."""
    uids = {rule["uid"] for group in wanted.groups for rule in group["rules"]}
    try:
        there = grafana.rules()
    except GrafanaError as exc:
        yield _failed("rules", "all", exc)
        return
    for rule in there:
        uid = rule.get("uid", "")
        ours = rule.get("folderUID") == wanted.folder.uid and rule.get("provenance") == "api" and uid.startswith(alerts.PREFIX)
        if ours and uid not in uids:
            yield Step("rules", str(rule.get("title")), "remove", do=lambda uid=uid: grafana.delete_rule(uid))  # type: ignore[misc]


def _step(kind: Any, name: str, look: Callable[[], Step]) -> Iterator[Step]:
    try:
        yield look()
    except GrafanaError as exc:
        yield _failed(kind, name, exc)


def _failed(kind: Any, name: str, exc: GrafanaError) -> Step:
    return Step(kind, name, "failed", str(exc), exc.reason, ends=exc.everywhere, seconds=exc.seconds)


def _folder(grafana: Grafana, folder: Folder) -> Step:
    """One that is there is left as it is: somebody may have given it another title, or another place."""
    if grafana.folder(folder.uid) is not None:
        return Step("folder", folder.title, "same")
    return Step("folder", folder.title, "create", do=lambda: grafana.create_folder(folder.uid, folder.title))


def _datasource(grafana: Grafana, wanted: Mapping[str, Any], *, force: bool) -> Step:
    """What the config says counts; what else is set there, such as a password, stays. A secret that is there is not shown: it is
    sent where there is none, with whatever else changes, and by `force`."""
    name, uid = wanted["name"], wanted["uid"]
    there = grafana.datasource(uid)
    if there is None:
        return Step("datasource", name, "create", do=lambda: grafana.create_datasource(wanted))
    secrets = wanted.get("secureJsonData", {})
    lines = tuple(differences(there, {key: value for key, value in wanted.items() if key != "secureJsonData"}))
    lines += tuple(f"secureJsonData.{key}" for key in secrets if force or not there.get("secureJsonFields", {}).get(key))
    if not lines:
        return Step("datasource", name, "same")
    if there.get("readOnly"):
        return Step("datasource", name, "kept", READ_ONLY, "provisioned", lines)
    others = ("user", "database", "basicAuth", "basicAuthUser", "withCredentials", "isDefault", "version")
    body = {key: there[key] for key in others if key in there}
    body |= {**wanted, "jsonData": {**there.get("jsonData", {}), **wanted["jsonData"]}}
    return Step("datasource", name, "update", lines=lines, do=lambda: grafana.update_datasource(uid, body))


def _dashboard(grafana: Grafana, wanted: Wanted, one: Dashboard) -> Step:
    """Where it lies in another folder by now, it stays there."""
    found = grafana.dashboard(one.uid)
    message = f"{MARK}{one.hash}"
    if found is None:
        body = {**one.content, "id": None}
        return Step(
            "dashboard",
            one.title,
            "create",
            do=lambda: grafana.save_dashboard(body, wanted.folder.uid, message, overwrite=False),
        )
    there, meta = found["dashboard"], found.get("meta", {})
    lines = tuple(differences(there, one.content))
    if not lines:
        return Step("dashboard", one.title, "same")
    if meta.get("provisioned"):
        return Step("dashboard", one.title, "kept", READ_ONLY, "provisioned", lines)
    last = grafana.last_version(one.uid)
    if last is not None and last.message == message:
        return Step("dashboard", one.title, "same")
    if not wanted.overwrite and (last is None or not last.message.startswith(MARK)):
        who = f"{last.by or 'somebody'} saved it at {last.at}" if last is not None else "somebody saved it"
        told = f"{who}; save theirs under another name, then `modelwatch grafana sync --force`"
        return Step("dashboard", one.title, "kept", told, "edited", lines)
    body = {**one.content, "id": there.get("id"), "version": there.get("version")}
    folder = meta.get("folderUid", wanted.folder.uid)
    return Step(
        "dashboard",
        one.title,
        "update",
        lines=lines,
        do=lambda: grafana.save_dashboard(body, folder, message, overwrite=False),
    )


def _rules(grafana: Grafana, wanted: Wanted, group: Mapping[str, Any]) -> Step:
    """Rules that come by this API cannot be edited in Grafana's pages, so whatever differs is an older version of ours."""
    title, folder = group["title"], wanted.folder.uid
    there = grafana.rule_group(folder, title)
    do = lambda: grafana.put_rule_group(folder, title, group)  # noqa: E731
    if there is None:
        return Step("rules", title, "create", do=do)
    lines = tuple(differences(there, group))
    return Step("rules", title, "update", lines=lines, do=do) if lines else Step("rules", title, "same")
