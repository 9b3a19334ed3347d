"""What the config file may say of budgets, and how `check-config` repeats it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from monitor.section import Name, Section, Zone

ALL = "all"  # the label of a budget that is not of one environment, or not of one prompt

Period = Literal["day", "month"]
Unit = Literal["usd", "tokens"]

Money = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1, max_length=200)]


class BudgetConfig(Section):
    """Limits for the calls of a model, or of those in one environment or with one prompt. Periods begin at its midnight."""

    model: Name
    environment: Text | None = Field(None, description="of spans and generations; by default all of them")
    prompt: Text | None = Field(None, description="prompt_name; by default all of them")
    cost_usd_per_day: Money | None = None
    cost_usd_per_month: Money | None = None
    tokens_per_day: Tokens | None = None
    tokens_per_month: Tokens | None = None
    timezone: Zone = Field("UTC", description="whose midnight begins a day and a month")

    @field_validator("environment", "prompt")
    @classmethod
    def _not_the_word_for_all(cls, value: str | None) -> str | None:
        if value == ALL:
            raise ValueError(f"{ALL!r} is what a budget for all of them is called in metrics; leave the key out for that")
        return value

    @model_validator(mode="after")
    def _a_limit(self) -> BudgetConfig:
        if not self.limits:
            raise ValueError(
                "give at least one of cost_usd_per_day, cost_usd_per_month, tokens_per_day and tokens_per_month, "
                f"for there is nothing to watch {self.model} by"
            )
        return self

    @property
    def limits(self) -> dict[tuple[Period, Unit], float]:
        given: dict[tuple[Period, Unit], float | None] = {
            ("day", "usd"): self.cost_usd_per_day,
            ("day", "tokens"): self.tokens_per_day,
            ("month", "usd"): self.cost_usd_per_month,
            ("month", "tokens"): self.tokens_per_month,
        }
        return {key: value for key, value in given.items() if value is not None}

    @property
    def labels(self) -> tuple[str, str, str]:
        """model, environment, prompt: as the metrics of budgets have them."""
        return self.model, self.environment or ALL, self.prompt or ALL


def once(value: tuple[BudgetConfig, ...]) -> tuple[BudgetConfig, ...]:
    """
    Raises:
        ValueError: two are about the same calls.
    """
    seen: dict[tuple[str, str, str], int] = {}
    for i, budget in enumerate(value):
        if (first := seen.setdefault(budget.labels, i)) != i:
            model, environment, prompt = budget.labels
            raise ValueError(
                f"{first} and {i} are both of model {model}, environment {environment}, prompt {prompt}; make them one"
            )
    return value


def lines(budgets: Sequence[BudgetConfig]) -> Iterator[str]:
    """What is budgeted, a line each."""
    for budget in budgets:
        words = [f"{value:,g} USD" if unit == "usd" else f"{value:,} tokens" for (_, unit), value in budget.limits.items()]
        each = ", ".join(f"{word} a {period}" for word, (period, _) in zip(words, budget.limits, strict=True))
        where = f"environment {budget.environment}" if budget.environment else "all environments"
        prompt = f"prompt {budget.prompt}" if budget.prompt else "all prompts"
        yield f"budget of {budget.model}, {where}, {prompt}: {each} ({budget.timezone})"
