"""What the demo does, step by step, and what it says of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from monitor.demo import data
from monitor.demo.replay import Client, replay
from monitor.demo.stack import Ports, Stack, fetch
from monitor.demo.stop import Late, Stop
from monitor.demo.webhook import Webhook

DRIFT, UNSUPPORTED = "bike-rental-drift", "support-bot-unsupported"
MODELS = {DRIFT: "bike-rental", UNSUPPORTED: "support-bot"}
PAGE = "ModelwatchCaseOpen"
ALERT_SECONDS = 240.0
STORE_SECONDS = 60.0
SHORT_WEEKS, SHORT_ANSWERS = 26, 60


def tell(stop: Stop, closing: contextlib.ExitStack, *, root: Path, short: bool) -> Stack:
    """Start everything, replay, show the alerts and the records. Whatever was started ends with `closing`.

    Raises:
        Stopped, Died, Late, MissingProgram, Refused
    """
    began = time.monotonic()
    stop.wait(0)
    ports, moved = Ports().free()
    template = (Path(__file__).parent / "modelwatch.yaml").read_text(encoding="utf-8")
    webhook = Webhook()
    webhook.start()
    closing.callback(webhook.stop)
    stack = Stack(fresh(root, closing), template, ports=ports, webhook=webhook.url, reference=data.REFERENCE)

    _say("Starting the daemon, Prometheus and Alertmanager. Ctrl-C stops everything.")
    for sentence in moved:
        print(f"  {sentence}")
    closing.callback(stack.close)
    stack.start(stop)
    print(f"  Prometheus    http://{stack.prometheus_at}/alerts")
    print(f"  Alertmanager  http://{stack.alertmanager_at}")
    print(f"  metrics       http://{stack.metrics}/metrics")
    print(f"  push API      http://{stack.push}/v1/predictions, labels, generations, contexts")
    print(f"  cases         http://{stack.push}/cases")
    print(f"  config, logs and store are in {_shown(stack.folder)}")

    client = Client(stack.push, stop, before_again=stack.check)
    closing.callback(client.close)
    _say("Bike rental: predictions for every hour since January 2011, a week an hour; labels come 48 hours late.")
    print(f"  The model was fitted on the first three months. {'A summer follows' if short else 'Two summers follow'}.")
    replay(client, data.bike(data.now(), weeks=SHORT_WEEKS if short else None), "  predictions, labels")
    good, bad = data.answers(data.now(), each=SHORT_ANSWERS if short else None)
    _say("Support bot, prompt version 7: all but a few answers keep to the passages they were given.")
    replay(client, good, "  answers")
    _say("Support bot, prompt version 8 goes out: its passages do not support what it says.")
    replay(client, bad, "  answers")

    _say("Waiting for both alerts in Alertmanager, and for the page of each model.")
    for check in MODELS:
        _show_alert(stack, check, stop)
    for model in MODELS.values():
        _show_page(stack, webhook, model, stop)
    print(f"  Both fire, {time.monotonic() - began:.0f} s after the start.")
    _show_case(stack, MODELS[UNSUPPORTED], UNSUPPORTED, stop)
    _show_records(stack, UNSUPPORTED, stop)
    _show_claims(stack, stop)
    return stack


def stay(stack: Stack, stop: Stop) -> None:
    """
    Raises:
        Stopped, Died
    """
    _say("All of it stays up, for you to look around. Ctrl-C stops everything.")
    while True:
        stop.wait(1)
        stack.check()


def fresh(root: Path, closing: contextlib.ExitStack) -> Path:
    """A new folder for this run, held until the end. Those of earlier runs go, but for one that is still held."""
    root.mkdir(parents=True, exist_ok=True)
    for old in root.glob("run-*"):
        with (old / "lock").open("w") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old)
    new = root.absolute() / f"run-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    new.mkdir()
    fcntl.flock(closing.enter_context((new / "lock").open("w")), fcntl.LOCK_EX)
    return new


def _show_alert(stack: Stack, check: str, stop: Stop) -> None:
    def look() -> dict[str, Any] | None:
        stack.check()
        return stack.firing("ModelwatchCheckFiring", check=check)

    alert = stop.wait_for(f"the alert of {check} in Alertmanager", look, ALERT_SECONDS)
    labels = alert["labels"]
    print(f"  FIRING  {labels['alertname']}  model {labels['model']}, check {check}, severity {labels['severity']}")


def _show_page(stack: Stack, webhook: Webhook, model: str, stop: Stop) -> None:
    """What whoever is on call is sent: one notification of a case, however many checks of the model fire."""

    def look() -> list[dict[str, Any]]:
        stack.check()
        return [one for one in webhook.about(model) if any(a["labels"]["alertname"] == PAGE for a in one["alerts"])]

    notification = stop.wait_for(f"the notification about {model}", look, ALERT_SECONDS)[0]
    labels = notification["alerts"][0]["labels"]
    print(f"  PAGED   {PAGE}  model {model}, severity {labels['severity']}, one notification to {notification['receiver']}")


def _show_case(stack: Stack, model: str, check: str, stop: Stop) -> None:
    """The case with what most likely caused it, and the evidence of one of its incidents with the query behind its number."""

    def look() -> str | None:
        found = fetch(f"http://{stack.push}/v1/cases?model={model}&state=open")["cases"]
        return found[0]["case_id"] if found else None

    case = fetch(f"http://{stack.push}/v1/cases/{stop.wait_for(f'the case of {model}', look, STORE_SECONDS)}")
    _say(f"The case of {model}, what to look at first and what changed before it.")
    print(f"  {case['url']}: {case['state']}, {case['severity']}, {case['incident_count']} incidents")
    for one in case["causes"]["checks"][:3]:
        print(f"  {100 * one['share']:3.0f} %  check {one['check']}")
    for one in case["changes"][:3]:
        when, previous = one["at"][:16].replace("T", " "), one.get("previous") or "none"
        print(f"  before it: {one['what']} {one['value']} at {when}, {previous} before")

    _say("The evidence of an incident: its number, again from the rows in the store, and the records behind it by prompt.")
    listed = fetch(f"http://{stack.push}/v1/incidents?check={check}&limit=1")["incidents"]
    incident = fetch(f"http://{stack.push}/v1/incidents/{listed[0]['incident_id']}")
    evidence = incident["evidence"]
    print(f"  {incident['url']}")
    print(
        f"  {evidence['statistic']} {evidence['value']:.3f} of {evidence['n_current']} answers, threshold {incident['upper']:g}"
    )
    for one in evidence["split"]:
        if one["what"] == "prompt":
            shares = ", ".join(f"{100 * one[k]:.0f} % flagged {k[8:]}" for k in ("flagged_before", "flagged_after") if k in one)
            print(f"  prompt {one['value']}: {one['before']} answers before, {one['after']} in the window; {shares}")
    stop.wait_for("the rows in audit.duckdb", lambda: sql(stack, evidence["number_sql"], "json")[0] == 0, STORE_SECONDS)
    code, row = sql(stack, evidence["number_sql"], "json")
    if code:
        raise Late(f"modelwatch sql: {row}")
    print(f"  the same by SQL: {row.strip()}")


def _show_records(stack: Stack, check: str, stop: Stop) -> None:
    """Run the query that lists the incidents, and the one that an incident keeps for finding its records."""

    def look() -> str | None:
        query = f"SELECT evidence FROM incidents WHERE check_name = '{check}' ORDER BY revision DESC LIMIT 1"
        code, rows = sql(stack, query, "json")
        return json.loads(json.loads(rows)["evidence"])["sql"] if code == 0 and rows else None

    # What auditors see is a few seconds old (store.tail_seconds).
    records = stop.wait_for(f"the incident of {check} in audit.duckdb", look, STORE_SECONDS)
    _say("The incidents, and the records behind the last one, from the store while the daemon runs.")
    for query in (INCIDENTS, f"{records} LIMIT 5"):
        print(f"\n$ {_modelwatch()} sql --store {_shown(stack.store)} {_quoted(query)}")
        code, rows = sql(stack, query, "table")
        if code:
            raise Late(f"modelwatch sql: {rows}")
        print(rows, end="")


def _show_claims(stack: Stack, stop: Stop) -> None:
    """What in an answer nothing supports, beside what in the same answer is supported."""

    def look() -> str | None:
        code, rows = sql(stack, CLAIMS, "json")
        return sql(stack, CLAIMS, "table")[1] if code == 0 and rows else None

    _say("One answer, claim by claim: what its passages support, and what they do not, with the offsets in the answer.")
    rows = stop.wait_for("the claims of an answer in audit.duckdb", look, STORE_SECONDS)
    print(f"\n$ {_modelwatch()} sql --store {_shown(stack.store)} {_quoted(CLAIMS)}")
    print(rows, end="")


CLAIMS = (
    "SELECT record_id, start_offset, end_offset, round(support, 2) AS support, substring(response, start_offset + 1, "
    "end_offset - start_offset) AS claim FROM claims JOIN answers USING (model, record_id) WHERE detector = 'faithfulness' "
    "AND record_id = (SELECT arg_max(record_id, high - low) FROM (SELECT record_id, max(support) AS high, min(support) AS low "
    "FROM claims WHERE detector = 'faithfulness' GROUP BY record_id)) ORDER BY claim_index"
)

INCIDENTS = (
    "SELECT check_name, arg_max(state, revision) AS state, opened_slot, arg_max(peak, revision) AS peak FROM incidents "
    "GROUP BY check_name, opened_slot ORDER BY opened_slot"
)


def sql(stack: Stack, query: str, form: str) -> tuple[int, str]:
    """Exit code and output of `modelwatch sql`."""
    done = subprocess.run(
        [sys.executable, "-m", "monitor", "sql", "--store", str(stack.store), "--format", form, query],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        check=False,
    )
    return done.returncode, done.stdout


def _modelwatch() -> str:
    """How to call it from here: the script beside this Python, or the module."""
    script = Path(sys.executable).with_name("modelwatch")
    return _shown(script) if script.exists() else f"{_shown(Path(sys.executable))} -m monitor"


def _quoted(query: str) -> str:
    """For a shell. SQL is full of single quotes, which shlex would make unreadable."""
    return f'"{query}"' if "'" in query and not set(query) & set('"$`\\!') else shlex.quote(query)


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _say(sentence: str) -> None:
    print(f"\n== {sentence}")
