"""Records the golden spans: real instrumentations, real client libraries, recorded answers, no network.

    python -m tests.golden.record --data DIR --venvs DIR [DIALECT ...]

DIR of --data holds `llm_http_cassettes/interactions.jsonl.gz`. For each dialect a virtual environment is made under --venvs from
requirements/DIALECT.txt where there is none yet. A local server answers every call with the cassette's body and takes the
spans as OTLP; they are written to spans/DIALECT.json as OTLP JSON, one entry a scenario: {"traces": [...], "logs": [...]}.

Changed on the way, and nothing else: ids in hex as OTLP JSON wants them; the folders of this machine are replaced in stack
traces, of which only the last line is kept; attributes of host and process are left out.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

HERE = Path(__file__).parent
PORT = 18099  # in the recordings as server.port: the same every time
IDS = {"traceId", "spanId", "parentSpanId"}
LEFT_OUT = ("process.", "host.", "os.", "service.instance.id", "telemetry.sdk.", "telemetry.auto")


TEMPLATES = {
    "dspy question": [f"dspy-test_compilation-{i}" for i in (0, 1, 2, 3)],
    "dspy retrieval": ["dspy-test_rag_module[False]-1", "dspy-test_rag_module[True]-1"],
    "agent framework, three turns": [f"agent-framework-test_long_conversation_context-{i}" for i in (0, 1, 2)],
    "autogen critic": [f"autogen-agentchat-TestTeam.test_team_run-{i}" for i in (1, 3)],
    "autogen writer": [f"autogen-agentchat-TestTeam.test_team_run-{i}" for i in (0, 2)],
    "agno finance": ["agno-team_coordinate_run-1", "agno-team_coordinate_run-4"],
    "crewai analyst": ["crewai-test_crewai_instrumentation-2", "crewai-test_tool_spans_nested_under_agent_span-2"],
    "anthropic completion": [f"anthropic-test_anthropic_instrumentation_{n}-0" for n in ("completions", "completions_streaming")],
}


class Replay(BaseHTTPRequestHandler):
    """POST /cassette/NAME/... answers from the cassette; POST /otlp/NAME/.../v1/traces|logs takes what was exported."""

    answers: dict[str, tuple[int, str]]
    taken: dict[str, dict[str, list[Any]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        _, area, name, *rest = self.path.split("/")
        if area == "cassette":
            status, answer = self.answers[name]
            stream = answer.lstrip().startswith(("data:", "event:"))
            self.reply(status, "text/event-stream" if stream else "application/json", answer.encode())
            return
        kind = rest[-1]
        if area == "otlp" and kind in ("traces", "logs"):
            request = ExportTraceServiceRequest() if kind == "traces" else ExportLogsServiceRequest()
            request.ParseFromString(body)
            self.taken.setdefault(name, {}).setdefault(kind, []).append(MessageToDict(request))
            self.reply(200, "application/x-protobuf", b"")
            return
        self.reply(200, "application/json", b"{}")

    do_GET = do_POST  # noqa: N815

    def reply(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def clean(value: Any, folders: list[str]) -> Any:
    if isinstance(value, dict):
        if value.get("key") in ("exception.stacktrace", "error.stack_trace"):
            last = value["value"]["stringValue"].rstrip().splitlines()[-1]
            return {"key": value["key"], "value": {"stringValue": clean(last, folders)}}
        return {k: base64.b64decode(v).hex() if k in IDS else clean(v, folders) for k, v in value.items()}
    if isinstance(value, list):
        return [clean(v, folders) for v in value if not (isinstance(v, dict) and str(v.get("key", "")).startswith(LEFT_OUT))]
    if isinstance(value, str):
        for folder in folders:
            value = value.replace(folder, "…")
    return value


def scenarios(data: Path) -> list[dict[str, Any]]:
    """Each scenario of scenarios.yaml with its request `body`, and `status` and `answer` of the cassette."""
    with gzip.open(data / "llm_http_cassettes" / "interactions.jsonl.gz", "rt") as lines:
        cassettes = {row["id"]: row for row in map(json.loads, lines)}
    found = []
    for name, entry in yaml.safe_load((HERE / "scenarios.yaml").read_text()).items():
        cassette = cassettes[entry["cassette"]] if "cassette" in entry else entry["made"]
        found.append(
            {
                "name": name,
                "api": entry["api"],
                "dialects": entry.get("dialects"),
                "body": json.loads(cassette["request_body"]),
                "status": cassette["status"],
                "answer": cassette["response_body"],
            }
        )
    return found


def interpreter(dialect: str, venvs: Path) -> Path:
    python = venvs / dialect / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venvs / dialect)], check=True)
        requirements = HERE / "requirements" / f"{dialect}.txt"
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(requirements)], check=True)
    return python


def record(dialect: str, data: Path, venvs: Path) -> None:
    chosen = [s for s in scenarios(data) if (s["dialects"] is None and dialect != "vectors") or dialect in (s["dialects"] or ())]
    taken: dict[str, dict[str, list[Any]]] = {}
    replay = type("Replay", (Replay,), {"answers": {s["name"]: (s["status"], s["answer"]) for s in chosen}, "taken": taken})
    server = ThreadingHTTPServer(("127.0.0.1", PORT), replay)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scenarios.json").write_text(json.dumps([{k: s[k] for k in ("name", "api", "body")} for s in chosen]))
        command = [str(interpreter(dialect, venvs)), str(HERE / "drive.py"), dialect, f"http://127.0.0.1:{PORT}", folder]
        environment = {"PATH": "/usr/bin:/bin", "HOME": folder, "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        subprocess.run(command, check=True, env=environment, cwd=folder)
        folders = [folder, str(venvs / dialect), str(HERE), str(Path.home())]
    server.shutdown()
    server.server_close()
    target = HERE / "spans" / f"{dialect}.json"
    target.parent.mkdir(exist_ok=True)
    names = dict.fromkeys([s["name"] for s in chosen] + list(taken))
    ordered = {name: clean(taken.get(name, {}), folders) for name in names}
    lines = (f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in ordered.items())
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{dialect}: {sum(bool(v) for v in ordered.values())} of {len(names)} scenarios, {target.stat().st_size} bytes")


def templates(data: Path) -> None:
    """The prompts of a few recorded applications, each called more than once: templates.json, name -> request bodies."""
    with gzip.open(data / "llm_http_cassettes" / "interactions.jsonl.gz", "rt") as lines:
        cassettes = {row["id"]: row["request_body"] for row in map(json.loads, lines)}
    found = {name: [json.loads(cassettes[i]) for i in ids] for name, ids in TEMPLATES.items()}
    (HERE / "templates.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--venvs", type=Path, required=True)
    parser.add_argument("dialects", nargs="*")
    arguments = parser.parse_args()
    known = sorted(p.stem for p in (HERE / "requirements").glob("*.txt"))
    templates(arguments.data)
    for dialect in arguments.dialects or known:
        record(dialect, arguments.data, arguments.venvs)


if __name__ == "__main__":
    main()
