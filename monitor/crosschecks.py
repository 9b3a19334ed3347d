"""Rules between the sections of a config file: they hold for whatever sections are good by themselves, so that one wrong value
elsewhere hides no other problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from detectors import registry

if TYPE_CHECKING:
    from monitor.budgets.config import BudgetConfig
    from monitor.config import Check, Config, EncoderConfig, Listener, MaskingConfig, ModelConfig, Otlp, PricesConfig, Server
    from monitor.recordrules.config import RecordRule
    from monitor.serving import Flagged
    from monitor.webhooks.config import Webhook


@dataclass(slots=True)
class Sound:
    """What is good of a config; None for a section, and no item of a list, where it is not. Items go by their place."""

    server: Server | None
    metrics: Listener | None
    otlp: Otlp | None
    encoder: EncoderConfig | None
    prices: PricesConfig | None
    masking: MaskingConfig | None
    models: Mapping[int, ModelConfig]
    checks: Mapping[int, Check]
    names: list[str] | None  # of all models, those that are no good included; None where they cannot be told
    named: list[tuple[str, str]] = field(default_factory=list)  # places that name a model, and the name
    judge: bool = False  # there is an endpoint to judge, good or not
    budgets: Mapping[int, BudgetConfig] = field(default_factory=dict)
    flagged: Mapping[int, Flagged] = field(default_factory=dict)
    record_rules: Mapping[int, RecordRule] = field(default_factory=dict)
    webhooks: Mapping[int, Webhook] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config) -> Sound:
        named = [(f"checks.{i}.model", c.model) for i, c in enumerate(config.checks)]
        named += [(f"sources.{i}.{key}", name) for i, s in enumerate(config.sources) for key, name in s.models()]
        named += [(f"cloudevents.services.{i}.model", s.model) for i, s in enumerate(config.cloudevents.services)]
        named += [(f"maintenance.{i}.models.{j}", m) for i, w in enumerate(config.maintenance) for j, m in enumerate(w.models)]
        named += [(f"record_rules.{i}.model", r.model) for i, r in enumerate(config.record_rules)]
        named += [(f"budgets.{i}.model", b.model) for i, b in enumerate(config.budgets)]
        named += [(f"slo.flagged.{i}.model", f.model) for i, f in enumerate(config.slo.flagged)]
        if config.export.otlp is not None:
            named += [(f"export.otlp.models.{i}", name) for i, name in enumerate(config.export.otlp.models)]
        if config.otlp.default_model is not None:
            named.append(("otlp.default_model", config.otlp.default_model))
        return cls(
            server=config.server,
            metrics=config.metrics,
            otlp=config.otlp,
            encoder=config.encoder,
            prices=config.prices,
            masking=config.masking,
            models=dict(enumerate(config.models)),
            checks=dict(enumerate(config.checks)),
            names=[m.name for m in config.models],
            named=named,
            judge=config.judge is not None,
            budgets=dict(enumerate(config.budgets)),
            flagged=dict(enumerate(config.slo.flagged)),
            record_rules=dict(enumerate(config.record_rules)),
            webhooks=dict(enumerate(config.webhooks)),
        )

    @classmethod
    def of_raw(cls, raw: Mapping[str, Any], config: type[Config]) -> Sound:
        """Of a file that did not validate as a whole."""

        def section(name: str) -> Any:
            annotation = config.model_fields[name].annotation
            return _valid(annotation, raw[name]) if name in raw else config.model_fields[name].default

        def items(name: str) -> list[Any]:
            found = raw.get(name, ())
            return list(found) if isinstance(found, (list, tuple)) else []

        def sound(name: str) -> dict[int, Any]:
            (one, _) = config.model_fields[name].annotation.__args__  # type: ignore[union-attr]
            tried = {i: _valid(one, item) for i, item in enumerate(items(name))}
            return {i: item for i, item in tried.items() if item is not None}

        names = [m.get("name") if isinstance(m, dict) else None for m in items("models")]
        known = isinstance(raw.get("models", []), list) and all(isinstance(name, str) for name in names)
        places = [(f"checks.{i}", c) for i, c in enumerate(items("checks"))]
        places += [(f"sources.{i}", s) for i, s in enumerate(items("sources"))]
        events = raw.get("cloudevents")
        services = events.get("services") if isinstance(events, dict) else None
        places += [(f"cloudevents.services.{i}", s) for i, s in enumerate(services if isinstance(services, list) else ())]
        places += [(f"budgets.{i}", b) for i, b in enumerate(items("budgets"))]
        places += [(f"record_rules.{i}", r) for i, r in enumerate(items("record_rules"))]
        slo = section("slo")
        flagged = dict(enumerate(slo.flagged if slo else ()))
        places += [(f"slo.flagged.{i}", f.model_dump()) for i, f in flagged.items()]
        named = [(f"{place}.model", one.get("model")) for place, one in places if isinstance(one, dict)]
        named += [(f"sources.{i}.{key}", name) for i, s in sound("sources").items() for key, name in s.models() if key != "model"]
        named += [(f"maintenance.{i}.models.{j}", m) for i, w in sound("maintenance").items() for j, m in enumerate(w.models)]
        if (export := section("export")) is not None and export.otlp is not None:
            named += [(f"export.otlp.models.{i}", name) for i, name in enumerate(export.otlp.models)]
        if isinstance(otlp := raw.get("otlp"), dict):
            named.append(("otlp.default_model", otlp.get("default_model")))
        return cls(
            server=section("server"),
            metrics=section("metrics"),
            otlp=section("otlp"),
            encoder=section("encoder"),
            prices=section("prices"),
            masking=section("masking"),
            models=sound("models"),
            checks=sound("checks"),
            names=[str(name) for name in names] if known else None,
            named=[(place, name) for place, name in named if isinstance(name, str) and not name.startswith("${")],
            judge=bool(raw.get("judge")),
            budgets=sound("budgets"),
            flagged=flagged,
            record_rules=sound("record_rules"),
            webhooks=sound("webhooks"),
        )


def problems(sound: Sound) -> Iterator[str]:
    """Each as `path.to.key: what is wrong; what to do`."""
    yield from _unguarded(sound)
    yield from _unhashable(sound)
    if sound.names is not None:
        there = ", ".join(sound.names) or "none"
        for place, name in sound.named:
            if name not in sound.names:
                yield f"{place}: no model {name!r}; there are {there}"
    models = {m.name: m for m in sound.models.values()}
    for i, check in sound.checks.items():
        model = models.get(check.model)
        if model and (wrong := _cannot_read(check, model, sound)):
            yield f"checks.{i}.{wrong}"
        elif model:
            yield from (f"checks.{i}.{wrong}" for wrong in (*_other_task(check, model), *_no_such_slice(check, model)))
        if model and check.threshold.kind == "calibrated" and check.threshold.alpha is None and not model.false_alarms_per_month:
            yield f"checks.{i}.threshold: kind calibrated needs alpha, or models.{model.name}.false_alarms_per_month"
    yield from (f"checks.{i}.{wrong}" for i, check in sound.checks.items() for wrong in _cannot_judge(check, sound))
    yield from _overspent(sound)
    yield from _not_counted(sound, models)
    from monitor.recordrules import config as recordrules
    from monitor.webhooks import config as webhooks

    yield from recordrules.problems(sound.record_rules, sound.checks, models, sound.masking)
    if sound.names is not None:
        names = [one.name for section in (sound.checks, sound.record_rules) for one in section.values()]
        yield from webhooks.problems(sound.webhooks, sound.names, names)


def _cannot_judge(check: Check, sound: Sound) -> Iterator[str]:
    from detectors.judge import Judge

    if not isinstance(settings := check.settings, Judge.Config):
        return
    if not sound.judge:
        yield "detector: judge asks an LLM; give the section judge, with base_url and model"
    if check.flag is not None and not 0 <= check.flag <= 1:
        yield f"flag: {check.flag:g}, but what a judge says is brought to 0..1; give a share of its range"
    others = [c for c in sound.checks.values() if c.model == check.model and registry.is_row(registry.load(c.detector))]
    local = {name for c in others if c.detector != check.detector for name in (c.name, registry.load(c.detector).name)}
    for i, one in enumerate(settings.escalate):
        if one.check not in local:
            there = ", ".join(sorted(local)) or "none"
            yield f"settings.escalate.{i}.check: {check.model} has no local row check {one.check!r}; there are {there}"


def _not_counted(sound: Sound, models: Mapping[str, ModelConfig]) -> Iterator[str]:
    """Budgets and objectives of what never has a call or a score: they would look kept for ever."""
    places = [(f"budgets.{i}.model", b.model) for i, b in sound.budgets.items()]
    places += [(f"slo.flagged.{i}.model", f.model) for i, f in sound.flagged.items()]
    for place, name in places:
        if name in models and models[name].task != "llm":
            yield f"{place}: {name} has task {models[name].task}, and only models of task llm have calls and scores of answers"
    for i, one in sound.flagged.items():
        if one.model in models and models[one.model].task == "llm":
            rows = {registry.load(c.detector).name for c in sound.checks.values() if c.model == one.model and _is_row(c)}
            if one.detector not in rows:
                there = ", ".join(sorted(rows)) or "none"
                yield f"slo.flagged.{i}.detector: no check of {one.model} scores by {one.detector!r}; there are {there}"


def _is_row(check: Check) -> bool:
    return registry.is_row(registry.load(check.detector))


def _other_task(check: Check, model: ModelConfig) -> Iterator[str]:
    """A detector that is told another task than that of the model, whose rows it would misread."""
    from monitor.config import asked_tasks

    known, task = asked_tasks(check.detector), getattr(check.settings, "task", None)
    if not known or model.task == "llm" or task == model.task:
        return
    if model.task in known:
        yield f"settings.task: {task}, but {model.name} has task {model.task}; leave it out"
    else:
        yield f"detector: {check.detector} reads tasks {', '.join(sorted(known))}, but {model.name} has task {model.task}"


def _no_such_slice(check: Check, model: ModelConfig) -> Iterator[str]:
    from monitor import answers
    from monitor.traffic import SENT

    for i, one in enumerate(check.slices):
        place = f"slices.{i}.{'where' if one.by is None else 'by'}"
        for name in (one.by,) if one.by is not None else one.where:
            if model.task == "llm":
                try:
                    answers.text_of(name)
                except ValueError as exc:
                    yield f"{place}: {exc}"
            elif model.features is not None and not (name in model.features or name in SENT or name.startswith("attributes.")):
                there = ", ".join((*sorted(model.features), *sorted(SENT), "attributes.KEY"))
                yield f"{place}: {model.name} has no field {name!r}; there are {there}"


def _overspent(sound: Sound) -> Iterator[str]:
    from monitor import thresholds

    for i, model in sound.models.items():
        budget, spent = model.false_alarms_per_month, thresholds.spent(list(sound.checks.values()), model.name)
        if budget is not None and spent > budget:
            yield (
                f"models.{i}.false_alarms_per_month: {budget:g}, but checks with an alpha of their own come to {spent:.3g}; "
                "raise it, or lower those"
            )


def _cannot_read(check: Check, model: ModelConfig, sound: Sound) -> str | None:
    """Key and why, where the rows of the model have not what the check's detector reads."""
    from monitor import traffic  # which imports the config

    detector = registry.load(check.detector)
    if registry.is_row(detector):
        if model.task != "llm":
            return f"detector: {check.detector} reads answers, but {model.name} has task {model.task}"
        return f"columns: {check.detector} scores answers one by one; leave columns out" if check.columns else None
    assert registry.is_window(detector)
    try:
        traffic.maker({model.name: model.task}, sound.checks.values())(check, detector(check.settings))  # type: ignore[call-arg]
    except ValueError as exc:
        return f"detector: {check.detector} {exc}"
    return None


def missing(sound: Sound, folder: Path) -> Iterator[tuple[str, Path]]:
    """Files that have to be there before anything starts, and are not: where they are named, and which. Relative paths begin
    at `folder`."""
    listeners: dict[str, Listener | None] = {"server": sound.server, "metrics": sound.metrics}
    listeners |= sound.otlp.listeners if sound.otlp else {}
    files = [
        ("server.tokens_file", sound.server.tokens_file if sound.server else None),
        ("encoder.path", sound.encoder.path if sound.encoder else None),
        ("prices.file", sound.prices.file if sound.prices else None),
    ]
    for name, listener in listeners.items():
        if listener is not None and listener.tls:
            files += [(f"{name}.tls.cert_file", listener.tls.cert_file), (f"{name}.tls.key_file", listener.tls.key_file)]
    files += [(f"webhooks.{i}.ca_file", one.ca_file) for i, one in sound.webhooks.items()]
    files += [(f"checks.{i}.reference.file", c.reference.file) for i, c in sound.checks.items() if c.reference]
    for where, path in files:
        # What is a reference still could not be resolved, and has been reported.
        if path is not None and not str(path).startswith("${") and not (folder / path).exists():
            yield where, folder / path


def _unguarded(sound: Sound) -> Iterator[str]:
    if sound.server is None or sound.otlp is None:  # whether there are tokens is not known, and to guess would mislead
        return
    for name, listener in sound.otlp.listeners.items():
        if listener.unguarded(sound.server.tokens_file):
            yield (
                f"{name}.listen: {listener.listen} is reachable from outside without {name}.tls and server.tokens_file; "
                "set both, listen on 127.0.0.1, or say insecure: true"
            )


def _unhashable(sound: Sound) -> Iterator[str]:
    if sound.masking is None or sound.masking.hash_key is not None:
        return
    rules = [("masking", sound.masking.fields)]
    rules += [(f"models.{i}.masking", m.masking.fields) for i, m in sound.models.items() if m.masking]
    for place, fields in rules:
        for path, action in fields.items():
            if action == "hash":
                yield f"{place}.fields.{path}: hash needs a key; set masking.hash_key to ${{env:NAME}} or ${{file:PATH}}"


def _valid(kind: Any, raw: Any) -> Any:
    """None where it is not."""
    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError:
        return None
