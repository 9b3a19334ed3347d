"""Why something changed: the features and the parts of the traffic that were moved, and no others."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import pieces, why
from detectors.contract import Frame, NotEnoughData, NotEvaluable
from detectors.why import WhyConfig

Columns = dict[str, np.ndarray[Any, Any]]


def traffic(seed: int, rows: int = 3000) -> Columns:
    rng = np.random.default_rng(seed)
    return {
        "age": rng.normal(40, 10, rows),
        "pay": rng.exponential(30, rows),
        "rooms": rng.integers(1, 5, rows).astype(float),
        "country": rng.choice(["NO", "SE", "DK"], rows, p=[0.5, 0.3, 0.2]),
        "channel": rng.choice(["web", "shop"], rows),
    }


def frame(columns: Columns) -> Frame:
    return Frame(columns)


def test_the_features_that_moved_come_first_and_the_shares_add_up_to_the_area() -> None:
    before, now = traffic(0), traffic(1)
    now["pay"] = now["pay"] * 1.8
    now["country"] = np.where(np.random.default_rng(2).random(3000) < 0.3, "DK", now["country"])
    found = why.drift(frame(before), frame(now))
    assert {cause.feature for cause in found.features[:2]} == {"pay", "country"}
    assert sum(cause.contribution for cause in found.features) == pytest.approx(found.change)
    still = [cause for cause in found.features if cause.feature in ("age", "rooms", "channel")]
    assert all(abs(cause.contribution) < found.features[1].contribution / 3 for cause in still)
    assert all(cause.error is not None and cause.error < 0.05 for cause in found.features)


def test_features_that_only_together_are_new_share_it() -> None:
    rng = np.random.default_rng(0)

    def pair(sign: float, rows: int = 3000) -> Columns:
        x = rng.normal(size=rows)
        return {"x": x, "y": sign * 0.9 * x + rng.normal(size=rows) * 0.44, "z": rng.normal(size=rows)}

    found = why.drift(frame(pair(1)), frame(pair(-1)))
    shares = {cause.feature: cause.contribution for cause in found.features}
    assert found.change > 0.2
    assert shares["x"] == pytest.approx(shares["y"], abs=0.08)
    assert min(shares["x"], shares["y"]) > 4 * abs(shares["z"])


def test_a_crossed_part_of_the_traffic_that_grew_is_found_by_name() -> None:
    before, now = traffic(0), traffic(1)
    grown = np.random.default_rng(3).random(3000) < 0.25
    now["country"] = np.where(grown, "SE", now["country"])
    now["channel"] = np.where(grown, "shop", now["channel"])
    found = why.drift(frame(before), frame(now))
    first = found.pieces[0]
    assert dict(first.conditions) == {"country": "country = SE", "channel": "channel = shop"}
    assert first.n_current > 1.8 * first.n_reference
    assert 0.5 < first.share < 1.6
    assert first.name in ("country = SE and channel = shop", "channel = shop and country = SE")


def errors(columns: Columns, seed: int, bad: float = 0.0) -> np.ndarray[Any, Any]:
    """0 or 1: one in ten, and `bad` more among the shop's customers of Denmark."""
    inside = (columns["country"] == "DK") & (columns["channel"] == "shop")
    found: np.ndarray[Any, Any] = np.random.default_rng(seed).random(len(inside)) < 0.1 + bad * inside
    return found.astype(float)


def test_where_a_model_got_worse_is_found_with_its_share() -> None:
    before, now = traffic(0), traffic(1)
    losses = errors(before, 10), errors(now, 11, bad=0.6)
    found = why.worse(frame(before), frame(now), losses, name="error_rate")
    assert found.change == pytest.approx(losses[1].mean() - losses[0].mean())
    first = found.pieces[0]
    assert dict(first.conditions) == {"country": "country = DK", "channel": "channel = shop"}
    assert 0.6 < first.share < 1.4
    assert first.mean_current is not None
    assert first.mean_reference is not None
    assert first.mean_current - first.mean_reference > 0.4
    assert all(abs(cause.contribution) < 0.01 for cause in found.features), "no feature's own shift explains it"


def test_a_loss_that_follows_the_mix_is_put_down_to_the_feature_whose_mix_changed() -> None:
    before, now = traffic(0), traffic(1)
    now["country"] = np.where(np.random.default_rng(5).random(3000) < 0.4, "DK", now["country"])
    losses = [np.where(one["country"] == "DK", 1.0, 0.1) for one in (before, now)]
    found = why.worse(frame(before), frame(now), (losses[0], losses[1]))
    assert found.features[0].feature == "country"
    assert found.features[0].contribution == pytest.approx(found.change)
    assert found.features[0].within == pytest.approx(0, abs=1e-9)
    assert all(abs(cause.contribution) < 0.1 * found.change for cause in found.features[1:])


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(10, 200))
def test_both_terms_of_kitagawa_add_up_to_the_change(seed: int, bins: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    codes, values = rng.integers(0, bins, 300), rng.normal(size=300)
    between, within = why.kitagawa(codes[:, None] == np.arange(bins), values, n)
    assert between + within == pytest.approx(values[n:].mean() - values[:n].mean(), abs=1e-9)


def test_parts_are_found_by_chance_no_more_often_than_is_asked() -> None:
    found = 0
    for seed in range(60):
        before, now = traffic(2 * seed, 800), traffic(2 * seed + 1, 800)
        losses = errors(before, 500 + seed), errors(now, 900 + seed)
        found += bool(why.worse(frame(before), frame(now), losses).pieces)
    assert found <= 7, "of 60 at 0.05, seven or more come in 2 % of cases"


def test_of_sides_that_cannot_be_told_apart_no_part_is_named() -> None:
    quick = WhyConfig(permutations=2, folds=2)
    found = [why.drift(frame(traffic(2 * seed, 500)), frame(traffic(2 * seed + 1, 500)), quick) for seed in range(16)]
    assert not any(one.pieces for one in found if one.change <= 0)
    assert any(one.change <= 0 for one in found)
    assert sum(bool(one.pieces) for one in found) <= 3, "of 16 at 0.05, four or more come in 1 % of cases"


def test_rows_that_depend_on_each_other_count_for_less() -> None:
    rng = np.random.default_rng(0)
    steps = rng.normal(size=4000)
    walk = np.zeros(4000)
    for i in range(1, 4000):
        walk[i] = 0.95 * walk[i - 1] + steps[i]
    plain = walk.std(ddof=1) / np.sqrt(4000)
    assert pieces.mean_error(walk)[1] > 3 * plain
    assert pieces.mean_error(steps)[1] == pytest.approx(1 / np.sqrt(4000), rel=0.4)


def test_equal_windows_give_equal_answers_and_plain_values() -> None:
    before, now = traffic(0, 600), traffic(1, 600)
    now["pay"] *= 2
    one, other = (why.drift(frame(before), frame(now)).to_dict() for _ in range(2))
    assert one == other
    assert json.loads(json.dumps(one))["features"][0]["feature"] == "pay"
    assert before["pay"].mean() < 40, "nothing was written to"


def test_missing_infinite_and_odd_columns_are_bins_or_left_out() -> None:
    before, now = traffic(0, 600), traffic(1, 600)
    now["age"][::2] = np.nan
    now["pay"][::3] = np.inf
    before["text"], now["text"] = np.arange(600.0), np.array(["x"] * 600)
    before["gone"] = np.ones(600)
    found = why.drift(frame(before), frame(now))
    assert set(found.left_out) == {"text", "gone"}
    assert found.features[0].feature in ("age", "pay")
    names = [text for piece in found.pieces for _, text in piece.conditions]
    assert "age missing" in names or "pay missing" in names


def test_too_few_rows_or_features_is_said() -> None:
    with pytest.raises(NotEnoughData, match="199 rows on one side, 200 are needed"):
        why.drift(frame(traffic(0, 199)), frame(traffic(1, 600)))
    with pytest.raises(NotEvaluable, match="two are needed"):
        why.drift(Frame({"x": np.arange(300.0)}), Frame({"x": np.arange(300.0)}))


def test_of_many_features_those_that_differ_most_are_looked_at() -> None:
    rng = np.random.default_rng(0)
    before, now = ({f"x{i:02d}": rng.normal(size=500) for i in range(60)} for _ in range(2))
    now["x37"] = now["x37"] + 2
    found = why.drift(Frame(before), Frame(now), WhyConfig(max_features=10))
    assert (found.features[0].feature, len(found.features), len(found.left_out)) == ("x37", 10, 50)


def test_losses_of_rows() -> None:
    window = Frame({"label": ["1", "0", None, "1.0"], "prediction": ["1", "1", "1", "true"]})
    assert why.errors_of(window, regression=False).tolist()[:2] == [0.0, 1.0]
    assert np.isnan(why.errors_of(window, regression=False)[2])
    assert why.errors_of(window, regression=False)[3] == 0.0
    numbers = Frame({"label": [1.0, np.nan], "prediction": [3.0, 1.0]})
    assert why.errors_of(numbers, regression=True)[0] == 2.0
    assert why.expected_errors_of(Frame({"probability": [0.9, 0.2, 7.0]})).tolist()[:2] == pytest.approx([0.1, 0.2])
