"""Which dead letters: said by the command line, by the admin API, and turned into SQL in one place."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from monitor.config import Instant


class Selection(BaseModel):
    """Which open letters. Everything that is given has to fit; giving nothing takes `everything: true`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: tuple[int, ...] = Field((), max_length=10_000)
    reason: str | None = None
    kind: str | None = None
    model: str | None = None
    source: str | None = Field(None, description="or its beginning")
    since: Instant | None = Field(None, description="came then or later")
    everything: bool = False
    after: int = Field(0, ge=0, description="only ids above: where the step before ended")
    until: int | None = Field(None, description="only ids up to: what came since the first step is left")
    limit: int | None = Field(None, ge=1, description="so many at most, of this step")

    @model_validator(mode="after")
    def _says_which(self) -> Selection:
        given = (self.ids, self.reason, self.kind, self.model, self.source, self.since, self.everything)
        if not any(given):
            raise ValueError("say which: ids, reason, kind, model, source, since, or everything: true")
        return self

    def where(self) -> tuple[str, list[Any]]:
        """SQL over the columns of deadletters, and its parameters."""
        parts: list[str] = []
        values: list[Any] = []
        for column, value in (("reason", self.reason), ("kind", self.kind), ("monitored_model", self.model)):
            if value is not None:
                parts.append(f"{column} = ?")
                values.append(value)
        if self.source is not None:
            parts.append("starts_with(source, ?)")
            values.append(self.source)
        if self.since is not None:
            parts.append("received_at >= ?")
            values.append(self.since)
        if self.ids:
            parts.append(f"seq IN ({', '.join(str(int(i)) for i in self.ids)})")
        parts.append("seq > ?")
        values.append(self.after)
        if self.until is not None:
            parts.append("seq <= ?")
            values.append(self.until)
        return " AND ".join(parts), values
