"""What every section of the config file is made of: kinds of values, and the class that knows no other keys."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"


def _duration(raw: Any) -> Any:
    """`90`, `"90s"`, `"15m"`, `"2h"`, `"7d"`, `"1w"` as whole seconds."""
    if isinstance(raw, str):
        match = re.fullmatch(r"\s*(\d+)\s*([smhdw])\s*", raw)
        if not match:
            raise ValueError(f"{raw!r} is not a duration; write it like 30s, 15m, 2h, 7d or 1w")
        return int(match[1]) * int(UNITS[match[2]])
    return raw


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} has no time zone; end it with Z or an offset")
    return value.astimezone(UTC)


Seconds = Annotated[int, BeforeValidator(_duration), Field(ge=1)]
SecondsOrZero = Annotated[int, BeforeValidator(_duration), Field(ge=0)]
Instant = Annotated[datetime, AfterValidator(_aware)]
Name = Annotated[str, Field(pattern=NAME)]
Severity = Literal["critical", "warning", "info"]


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError(f"no time zone {value!r}; give a name such as UTC or Europe/Berlin") from exc
    return value


Zone = Annotated[str, AfterValidator(_zone)]


def differ_in_more_than_case(names: Iterable[str]) -> None:
    """Names become those of files, tables and columns, where case does not count."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.lower(), name)) is not name:
            raise ValueError(f"the name {name!r} is taken by {other!r}; names must differ in more than case")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
