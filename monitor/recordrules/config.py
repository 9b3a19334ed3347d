"""What the config file may say of a rule on single records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from detectors import registry
from monitor.checkconfig import Check, SliceValue
from monitor.masking.recognisers import RECOGNISERS
from monitor.section import Name, Seconds, Section, Severity

if TYPE_CHECKING:
    from monitor.config import MaskingConfig, ModelConfig

TextField = Literal["question", "system", "response", "messages", "tool_calls"]
SENT = ("trace_id", "model_version")


class RecordRule(Section):
    """One record that meets it opens an incident: a score of a row check at or beyond a bound, or something that was masked."""

    name: Name
    model: Name
    check: Name | None = Field(None, description="the row check, local or judged, whose scores it reads")
    at_least: float | None = Field(None, allow_inf_nan=False)
    at_most: float | None = Field(None, allow_inf_nan=False)
    masked: tuple[str, ...] = Field((), description="or: kinds of which something was masked in the record")
    fields: tuple[TextField, ...] = Field((), description="masked: where it stands; default: the response")
    where: dict[str, SliceValue | tuple[SliceValue, ...]] = Field({}, description="field: a value, or a list of them")
    key: Literal["record", "trace", "conversation", "user", "fingerprint", "rule"] = Field(
        "trace", description="records with the same are one incident, and so are those with the same texts"
    )
    clear_after: Seconds = Field(3600, description="without another match before it resolves")
    max_per_hour: int = Field(10, ge=1, le=1000, description="incidents it opens; what is beyond is counted in the latest")
    severity: Severity = "critical"
    owner: str = ""

    @field_validator("masked")
    @classmethod
    def _recognised(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for kind in value:
            if kind not in RECOGNISERS:
                raise ValueError(f"nothing recognises {kind!r}; there are {', '.join(sorted(RECOGNISERS))}")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> RecordRule:
        if (self.check is None) == (not self.masked):
            raise ValueError("give exactly one of check (with at_least or at_most) and masked")
        bounds = [bound for bound in (self.at_least, self.at_most) if bound is not None]
        if self.check is not None and len(bounds) != 1:
            raise ValueError(f"check {self.check}: give exactly one of at_least and at_most")
        if self.masked and bounds:
            raise ValueError("at_least and at_most belong to check; of what is masked one value is enough")
        if self.fields and not self.masked:
            raise ValueError("fields belongs to masked; a score is of the whole record")
        if empty := [name for name, values in self.where.items() if values == ()]:
            raise ValueError(f"where.{empty[0]}: an empty list; give a value")
        return self

    @property
    def bound(self) -> float | None:
        return self.at_least if self.at_least is not None else self.at_most

    def beyond(self, value: float) -> bool:
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0.0)

    def worst(self, one: float, other: float) -> float:
        return min(one, other) if self.at_most is not None else max(one, other)


def problems(
    rules: Mapping[int, RecordRule],
    checks: Mapping[int, Check],
    models: Mapping[str, ModelConfig],
    masking: MaskingConfig | None,
) -> Iterator[str]:
    """Each as `path.to.key: what is wrong; what to do`. `checks` and `models`: those that are good by themselves."""
    taken = {check.name.lower(): f"checks.{i}" for i, check in checks.items()}
    for i, rule in rules.items():
        place = f"record_rules.{i}"
        if (other := taken.get(rule.name.lower())) is not None:
            yield f"{place}.name: {rule.name!r} is the name of {other}; both become the label check, so choose another"
        taken[rule.name.lower()] = place
        model = models.get(rule.model)
        if model is None:
            continue  # said elsewhere
        if rule.check is not None:
            yield from (f"{place}.{wrong}" for wrong in _of_score(rule, checks))
        elif masking is not None:
            yield from (f"{place}.{wrong}" for wrong in _of_masked(rule, model, masking))
        yield from (f"{place}.{wrong}" for wrong in _of_fields(rule, model))


def _of_score(rule: RecordRule, checks: Mapping[int, Check]) -> Iterator[str]:
    rows = {c.name: c for c in checks.values() if c.model == rule.model and registry.is_row(registry.load(c.detector))}
    check = rows.get(rule.check or "")
    if check is None:
        yield f"check: {rule.model} has no row check {rule.check!r}; there are {', '.join(sorted(rows)) or 'none'}"
        return
    detector, bound, key = registry.load(check.detector), rule.bound, "at_least" if rule.at_least is not None else "at_most"
    if not detector.__module__.startswith("detectors."):
        return  # of one's own: its scores may lie anywhere
    if bound is not None and not 0 <= bound <= 1:
        yield f"{key}: {bound:g}, but scores of {check.detector} lie from 0 to 1; give a bound between"
    elif bound == (0 if rule.at_least is not None else 1):
        yield f"{key}: {bound:g} is what every score of {check.detector} meets; give a bound that tells some from the others"


def _of_masked(rule: RecordRule, model: ModelConfig, masking: MaskingConfig) -> Iterator[str]:
    own = model.masking
    kinds = own.kinds if own is not None and own.kinds is not None else masking.kinds
    content = own.content if own is not None and own.content is not None else masking.content
    for kind in rule.masked:
        if kind not in kinds:
            yield f"masked: {kind!r} is not looked for in {model.name}; add it to masking.kinds, or leave it out"
    if content == "none" and model.task == "llm":
        yield f"masked: of {model.name} no content is looked at (masking.content is none); keep it, or leave the rule out"
    if rule.fields and model.task != "llm":
        yield f"fields: {model.name} has task {model.task} and no texts; leave fields out"


def _of_fields(rule: RecordRule, model: ModelConfig) -> Iterator[str]:
    from monitor import answers  # which imports the config

    if model.task == "llm":
        for name in rule.where:
            try:
                answers.text_of(name)
            except ValueError as exc:
                yield f"where: {str(exc).replace('slices by', 'asks for')}"
        return
    for name in rule.where:
        if name not in SENT:
            yield f"where: a record of {model.name} is told by {' or '.join(SENT)}, not by {name!r}"
    if rule.key not in ("record", "trace", "rule"):
        yield f"key: {rule.key}, but records of {model.name} have none; give record, trace or rule"
