"""`modelwatch evaluate`: how good is a detector on labelled rows of one's own? To be asked before an alert depends on it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from pydantic import ValidationError
from tqdm import tqdm

from detectors import registry
from detectors.contract import DetectorConfig, Outcome, RowDetector, Score
from detectors.evaluation import FIGURES, Evaluation, Figure, Measured, NotMeasurable, evaluate
from monitor import configfile, models
from monitor.config import Config
from monitor.errors import ModelwatchError
from monitor.helpers import DetectorSpec, ScoreAnswer, ScoreRequest, scorer
from monitor.records import Reject
from monitor.rowchecks import flagging
from monitor.sources.mapping import Columns, lookup
from monitor.sources.rowfiles import Unreadable, format_of, read
from monitor.terminal import table

FIELDS = ("text", "question", "response", "context", "label")
EXCHANGE = frozenset({"samples", "logprobs", "messages"})
"""What some detectors read besides; by its own name, as it is pushed."""
BATCH_ROWS = 32
MOST_GROUPS = 100
YES = {"1", "1.0", "true", "yes"}
NO = {"0", "0.0", "false", "no"}

FORMAT = """\
A row of FILE has `label` (1 is the bad case: toxic, unsupported, an attack; 0 is not) and the fields that the detector reads:
`question`, `response`, `context` (a text or a list of texts), or `text`, which stands for the field that is judged. --map says
which column is which where they have other names, with dots into nested objects.
Exit codes: 0; 1 when the file, the settings or the rows cannot be used."""


class NotEvaluated(ModelwatchError):
    """There are no figures. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The rows of a file: as a detector reads them, True where the label is 1, and the group of each or None."""

    rows: list[dict[str, Any]]
    label: list[bool]
    groups: list[str] | None


@dataclass(frozen=True, slots=True)
class Result:
    """What was found. `stages` counts the scores that are ok by who gave them, `unscored` the others by outcome and reason."""

    detector: str
    version: str
    flag: float
    rows: int
    seconds: float
    stages: Counter[str]
    unscored: Counter[tuple[str, str]]
    unscored_bad: int  # of them labelled 1
    figures: Evaluation


def add_to(commands: Any) -> None:
    """The arguments of the command. `commands`: what `add_subparsers` gives."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a row detector on labelled rows of your own",
        description=__doc__,
        epilog=FORMAT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--detector", required=True, help="a shipped row detector, one of a package, or module:Class")
    parser.add_argument("--dataset", required=True, type=Path, metavar="FILE", help=".jsonl, .csv or .parquet, also .gz")
    parser.add_argument("--map", default="", metavar="text=A,label=B", help="FIELD=COLUMN,... of " + ", ".join(FIELDS))
    parser.add_argument("--group", metavar="COLUMN", help="figures by the values of a column too, and their mean")
    parser.add_argument("--settings", default="{}", metavar="JSON", help="the detector's settings, as under checks.settings")
    parser.add_argument("--flag", type=float, help="where a score counts as flagged (default: the detector's)")
    parser.add_argument("--config", type=Path, help="a config file, for its encoder, its models and its judge")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N rows")
    parser.add_argument("--resamples", type=_positive, default=1_000, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    parser.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> int:
    detector, settings, flag = chosen(arguments.detector, arguments.settings, arguments.flag)
    config = configfile.load(arguments.config) if arguments.config else Config()
    settings = models.by_name(settings, config.store.path)
    if unfit := [f"--settings: {line}" for line in models.unfit(detector, settings)]:
        raise NotEvaluated("\n".join(unfit))
    rows = read_rows(arguments.dataset, mapping(arguments.map), arguments.group, detector.inputs, arguments.limit)
    spec = DetectorSpec(arguments.detector, settings.model_dump_json())
    ask = scorer(config.encoder.model_dump(mode="json"), config.judge)
    progress = sys.stderr if sys.stderr.isatty() else None
    result = measure(detector, spec, rows, ask, flag=flag, resamples=arguments.resamples, progress=progress)
    print(json.dumps(as_json(result), indent=1) if arguments.json else report(result))
    return 0


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


# --- what is asked for -----------------------------------------------------------------------------------------------


def chosen(name: str, settings: str, flag: float | None) -> tuple[type[RowDetector], DetectorConfig, float]:
    """The detector, its settings and its flag.

    Raises:
        NotEvaluated: there is no such row detector, or these are no settings of it.
    """
    try:
        found = registry.load(name)
    except registry.UnknownDetector as exc:
        raise NotEvaluated(f"--detector: {exc}") from exc
    if not registry.is_row(found):
        raise NotEvaluated(f"--detector: {name} judges windows, not rows; `modelwatch compare` runs it on two files")
    try:
        config = found.Config.model_validate(json.loads(settings))
    except json.JSONDecodeError as exc:
        raise NotEvaluated(f"--settings: no JSON ({exc}); write it like '{{\"key\": 1}}'") from exc
    except ValidationError as exc:
        lines = [f"--settings: {'.'.join(map(str, e['loc'])) or name}: {e['msg']}" for e in exc.errors()]
        raise NotEvaluated("\n".join(lines)) from exc
    return found, config, flagging(found, config)[0] if flag is None else flag


def mapping(text: str) -> dict[str, str]:
    """Field -> column, from `text=comment,label=toxic`.

    Raises:
        NotEvaluated: it is not of that form.
    """
    found = {}
    for one in filter(None, text.split(",")):
        field, equals, column = one.partition("=")
        if not equals or not column or field not in FIELDS:
            raise NotEvaluated(f"--map: {one!r} is not FIELD=COLUMN; the fields are {', '.join(FIELDS)}")
        found[field] = column
    return found


# --- rows ------------------------------------------------------------------------------------------------------------


def read_rows(path: Path, columns: Mapping[str, str], group: str | None, inputs: frozenset[str], limit: int | None) -> Labelled:
    """The labelled rows of a file.

    Raises:
        NotEvaluated: the file cannot be read, or a row has no label or nothing to judge.
    """
    form = format_of(path.name)
    if form is None:
        raise NotEvaluated(f"--dataset: {path}: its name must end in .jsonl, .csv, .tsv or .parquet, or one of them and .gz")
    found = Labelled([], [], [] if group else None)
    texts = tuple(columns.get(name, name) for name in FIELDS if name != "label")
    try:
        with path.open("rb") as file:
            for number, item in enumerate(read(file, path.name, form, "generations", Columns(text_columns=texts)), 1):
                if isinstance(item, Reject):
                    raise NotEvaluated(f"{path}: row {number}: {item.message}")
                _take(item, f"{path}: row {number}", columns, group, inputs, found)
                if number == limit:
                    break
    except OSError as exc:
        raise NotEvaluated(f"--dataset: {path}: cannot be read ({exc.strerror or exc})") from exc
    except Unreadable as exc:
        raise NotEvaluated(f"--dataset: {path}: {exc}") from exc
    if not found.rows:
        raise NotEvaluated(f"--dataset: {path}: there is no row in it")
    if found.groups and len(many := set(found.groups)) > MOST_GROUPS:
        raise NotEvaluated(f"--group: {group} has {len(many)} values; {MOST_GROUPS} is the limit, so name a coarser column")
    return found


def _take(
    item: Any, place: str, columns: Mapping[str, str], group: str | None, inputs: frozenset[str], into: Labelled
) -> None:  # fmt: skip
    if not isinstance(item, dict):
        raise NotEvaluated(f"{place}: a {type(item).__name__}, not an object with fields")
    value = {name: lookup(item, columns.get(name, name)) for name in FIELDS}
    if value["context"] is None and "context" not in columns:
        value["context"] = lookup(item, "contexts")
    if all(value[name] is None for name in FIELDS if name != "label"):
        wanted = ", ".join(sorted({"text", *inputs}))
        raise NotEvaluated(f"{place}: nothing to judge; the detector reads {wanted}, {_there(item)}; say which with --map")
    exchange = {name: _value(item[name]) for name in sorted(EXCHANGE & inputs) if name in item}
    into.rows.append({"record_id": str(len(into.rows)), **_fields(value, inputs), **exchange})
    into.label.append(_label(value["label"], place, columns.get("label", "label"), item))
    if into.groups is not None and group is not None:
        of = lookup(item, group)
        if of is None:
            raise NotEvaluated(f"{place}: no {group!r}, which --group names; {_there(item)}")
        into.groups.append(str(of))


def _fields(value: Mapping[str, Any], inputs: frozenset[str]) -> dict[str, Any]:
    """The row that a detector is given. `text` is the answer where answers are judged; where a detector reads no passages it may
    be the question as well, as its settings say which of the two it looks at."""
    question, response, context = value["question"], value["response"], value["context"]
    if value["text"] is not None:
        if response is None and ("response" in inputs or "question" not in inputs):
            response = value["text"]
        if question is None and ("response" not in inputs or "contexts" not in inputs):
            question = value["text"]
    context = _value(context) if isinstance(context, str) and context.lstrip().startswith("[") else context
    contexts = [context] if isinstance(context, str) else list(context) if isinstance(context, list | tuple) else []
    contexts = [one["text"] if isinstance(one, dict) and "text" in one else one for one in contexts]
    return {"question": question, "response": response, "contexts": contexts}


def _value(value: Any) -> Any:
    """What stands as JSON in a cell of CSV, a list mostly; everything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value  # a text that begins so
    return value


def _there(item: Mapping[str, Any]) -> str:
    return f"the row has {', '.join(map(str, item)) or 'nothing'}"


def _label(value: Any, place: str, column: str, item: Mapping[str, Any]) -> bool:
    text = str(value).strip().lower()
    if text in YES:
        return True
    if text in NO:
        return False
    if value is None:
        raise NotEvaluated(
            f"{place}: no {column!r}; every row needs a label, and --map label=COLUMN says where it stands; {_there(item)}"
        )
    raise NotEvaluated(f"{place}: {column} is {str(value)[:40]!r}; it must be 1 (the bad case) or 0")


# --- figures ---------------------------------------------------------------------------------------------------------


def measure(
    detector: type[RowDetector],
    spec: DetectorSpec,
    labelled: Labelled,
    ask: Callable[[ScoreRequest], ScoreAnswer],
    *,
    flag: float,
    resamples: int,
    progress: TextIO | None = None,
) -> Result:
    """Score the rows as the daemon does, in batches, and compare with the labels.

    Raises:
        NotEvaluated: no figure can be had: the detector fails on every row, or all rows it can score have one label.
    """
    ask(ScoreRequest((spec,), []))  # loads the models, which is no part of the speed
    scores: list[Score] = []
    started = time.perf_counter()
    with tqdm(total=len(labelled.rows), desc=detector.name, unit="row", file=progress, disable=progress is None) as bar:
        for batch in _batches(labelled.rows):
            scores += ask(ScoreRequest((spec,), batch)).scores[0]
            bar.update(len(batch))
    seconds = time.perf_counter() - started
    ok = np.array([score.outcome is Outcome.OK for score in scores], dtype=bool)
    label = np.array(labelled.label, dtype=bool)
    unscored = Counter((s.outcome.value, s.reason or "") for s in scores if s.outcome is not Outcome.OK)
    try:
        figures = evaluate(
            label[ok],
            np.array([score.value for score in scores if score.value is not None]),
            worse=flagging(detector, detector.Config.model_validate_json(spec.settings))[1],
            flag=flag,
            groups=None if labelled.groups is None else [g for g, is_ok in zip(labelled.groups, ok, strict=True) if is_ok],
            resamples=resamples,
        )
    except NotMeasurable as exc:
        why = "; ".join(f"{n} {outcome}, {reason}{_error(scores, reason)}" for (outcome, reason), n in unscored.most_common(3))
        raise NotEvaluated(f"{detector.name}: {exc}" + (f"; of the others {why}" if why else "")) from exc
    return Result(
        detector.name,
        detector.version,
        flag,
        len(scores),
        seconds,
        Counter(score.stage or "-" for score in scores if score.outcome is Outcome.OK),
        unscored,
        int(label[~ok].sum()),
        figures,
    )


def _batches(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    for start in range(0, len(rows), BATCH_ROWS):
        yield rows[start : start + BATCH_ROWS]


def _error(scores: Sequence[Score], reason: str) -> str:
    """What the first failure of that name said."""
    said = next((str(s.detail.get("error", "")) for s in scores if s.outcome is Outcome.FAILED and s.reason == reason), "")
    return f" ({said})" if said else ""


# --- telling ---------------------------------------------------------------------------------------------------------


def as_json(result: Result) -> dict[str, Any]:
    return {
        "detector": result.detector,
        "version": result.version,
        "flag": result.flag,
        "rows": result.rows,
        "seconds": round(result.seconds, 3),
        "rows_per_second": round(result.rows / max(result.seconds, 1e-9), 1),
        "stages": {stage: n / max(1, result.stages.total()) for stage, n in result.stages.most_common()},
        "not_scored": [{"outcome": o, "reason": r, "rows": n} for (o, r), n in result.unscored.most_common()],
        "not_scored_label_1": result.unscored_bad,
        "all": _measured_json(result.figures.pooled),
        "macro": _figures_json(result.figures.macro),
        "groups": {name: _measured_json(one) for name, one in result.figures.groups.items()},
    }


def _measured_json(one: Measured) -> dict[str, Any]:
    return {"rows": one.rows, "label_1": one.bad, **_figures_json(one.figures)}


def _figures_json(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: None if f.value is None else {"value": f.value, "low": f.low, "high": f.high} for name, f in figures.items()}


def report(result: Result) -> str:
    """A table for people: a line for all rows, one for the mean of the groups, one for each group."""
    lines = [("all", result.figures.pooled.rows, result.figures.pooled.bad, result.figures.pooled.figures)]
    if result.figures.groups:
        lines += [("macro", "", "", result.figures.macro)]  # type: ignore[list-item]
        lines += [(name, one.rows, one.bad, one.figures) for name, one in result.figures.groups.items()]
    cells = [[name, rows, bad, *(_cell(figures[f]) for f in FIGURES)] for name, rows, bad, figures in lines]
    stages = ", ".join(f"{stage} {100 * n / result.stages.total():.1f} %" for stage, n in result.stages.most_common())
    not_scored = ", ".join(f"{n} {outcome} ({reason})" for (outcome, reason), n in result.unscored.most_common())
    return "\n".join(
        (
            f"{result.detector} {result.version}, flagged at {result.flag:g}; 95 % intervals",
            "",
            table(("", "rows", "label 1", *(name.replace("_", " ") for name in FIGURES)), cells),
            "",
            f"{result.rows} rows, {result.rows / max(result.seconds, 1e-9):,.0f} a second; stages: {stages}",
            f"not scored: {not_scored or 'none'}" + (f"; {result.unscored_bad} of them labelled 1" if not_scored else ""),
        )
    )


def _cell(figure: Figure) -> str:
    if figure.value is None:
        return "-"
    return f"{figure.value:.3f}" + (f" ({figure.low:.3f}-{figure.high:.3f})" if figure.low is not None else "")
