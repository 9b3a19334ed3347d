"""Words for queries. `$job`, `$instance`, `$model` and so on are the dashboard's variables.

A selector names a metric and narrows it by all variables that it has a label for: a test compares it with the catalogue.
"""

from __future__ import annotations

TARGET = 'job=~"$job", instance=~"$instance"'
MODEL = f'{TARGET}, model=~"$model"'
CHECK = f'{MODEL}, check=~"$check"'
WINDOW = "[$__rate_interval]"
HERE = "{{instance}}"
NONE = f"0 * count(modelwatch_build_info{{{TARGET}}})"
"""The number of what there is none of. While no daemon can be scraped it is not known, and a 0 would look like all clear."""


def rate(metric: str, where: str, by: str = "") -> str:
    """A counter as a speed, per second."""
    return f"{_sum(by)} (rate({metric}{{{where}}}{WINDOW}))"


def increase(metric: str, where: str, by: str = "") -> str:
    """What a counter has counted since the point before."""
    return f"{_sum(by)} (increase({metric}{{{where}}}{WINDOW}))"


def share(part: str, whole: str) -> str:
    """Of two speeds by the same labels; absent, not NaN, while the whole is zero."""
    return f"{part} / ({whole} > 0)"


def quantile(q: float, metric: str, where: str, by: str = "") -> str:
    """Of a histogram. Absent, not NaN, while nothing was observed."""
    labels = f"{by}, le" if by else "le"
    buckets = f"sum by ({labels}) (rate({metric}_bucket{{{where}}}{WINDOW}))"
    return f"histogram_quantile({q}, {buckets}) and on ({by}) {_sum(by)} (rate({metric}_count{{{where}}}{WINDOW})) > 0"


def quantiles(
    metric: str, where: str, by: str = "", legend: str = "", of: tuple[float, ...] = (0.5, 0.95, 0.99)
) -> list[tuple[str, str]]:
    """One target each."""
    return [(quantile(q, metric, where, by), f"{legend} p{round(q * 100)}".strip()) for q in of]


def ours(metric: str) -> str:
    """A metric that other programs have, too, of our daemons alone: this Prometheus may scrape others, and all jobs be chosen."""
    return f"({metric}{{{TARGET}}} and on (job, instance) last_over_time(modelwatch_build_info{{{TARGET}}}[1d]))"


def largest(metric: str, where: str, by: str) -> str:
    """A gauge that one daemon exports for each of these labels."""
    return f"max by ({by}) ({metric}{{{where}}})"


def age(metric: str, where: str, by: str = "") -> str:
    """Seconds since the earliest of these times."""
    oldest = f"min by ({by})" if by else "min"
    return f"time() - {oldest} ({metric}{{{where}}})"


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"


def by_instance(metric: str, reduce: str = "max") -> str:
    """A gauge of each daemon."""
    return f"{reduce} by (instance) ({metric}{{{TARGET}}})"
