"""Inputs that break detectors: windows and rows as production sends them on a bad day, for `detectors.testing`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.contract import Frame, Row

ROWS = 400
FEATURES = ("amount", "visits", "city")


def windows() -> dict[str, tuple[Frame, Frame]]:
    """By name: reference and current window. All but the first pair are unkind."""
    usual, moved = _columns(ROWS, 1), _columns(ROWS, 2)
    reference, current = _frame(usual), _frame(moved)
    empty, one = _frame(_columns(0, 3)), _frame(_columns(1, 4))
    nan, inf = np.full(ROWS, np.nan), np.where(np.arange(ROWS) % 2, np.inf, -np.inf)
    none = np.full(ROWS, None, dtype=object)
    unicode = np.array(["Ærø", "東京", "🦜", "e\u0301", "\u202eabc", "", " ", "\x00"] * (ROWS // 8), dtype=object)
    distinct = np.array([f"id-{i}" for i in range(ROWS)], dtype=object)
    zeros = np.zeros(ROWS)
    blank = _frame(usual, amount=nan, visits=nan, city=none, prediction=nan, probability=nan, label=nan)
    constant = _frame(usual, amount=zeros, visits=zeros, city=["Oslo"] * ROWS, prediction=zeros, probability=zeros, label=zeros)
    infinite = _frame(moved, amount=inf, visits=np.where(zeros == 0, np.inf, 0), prediction=inf, probability=inf)
    huge = _frame(moved, amount=moved["amount"] * 1e304, prediction=moved["prediction"] * 1e308)
    without = {name: values for name, values in moved.items() if name != "amount"}
    kinds = _frame(moved, amount=distinct, visits=unicode)
    columnless = Frame({}, features={})
    return {
        "ordinary windows": (reference, current),
        "the reference twice": (reference, reference),
        "an empty current window": (reference, empty),
        "an empty reference": (empty, current),
        "two empty windows": (empty, empty),
        "a current window of one row": (reference, one),
        "a reference of one row": (one, current),
        "a current window of NaN": (reference, blank),
        "a reference of NaN": (blank, current),
        "constant columns": (constant, constant),
        "a constant reference": (constant, current),
        "unicode categories": (_frame(usual, city=unicode), _frame(moved, city=unicode[::-1])),
        "categories never seen before": (reference, _frame(moved, city=unicode)),
        "categories that are all distinct": (_frame(usual, city=distinct), _frame(moved, city=distinct)),
        "infinities": (reference, infinite),
        "infinities in the reference": (infinite, current),
        "numbers near the largest float": (reference, huge),
        "a column missing": (reference, _frame(without)),
        "numbers that became text": (reference, kinds),
        "no columns at all": (columnless, columnless),
    }


def rows() -> dict[str, Row]:
    """By name: one row. Generations first, then predictions."""
    question = "How tall is the tower, and who built it?"
    contexts = ["The tower is 330 metres tall.", "It was built by the company of Gustave Eiffel in 1889."]
    response = "The tower is 330 metres tall. It was built by Gustave Eiffel's company."
    long = "The tower is 330 metres tall. " * 3500

    def generation(**changed: Any) -> Row:
        return {"record_id": "r", "question": question, "response": response, "contexts": list(contexts), **changed}

    def prediction(**changed: Any) -> Row:
        features = {"amount": 12.5, "visits": 3.0, "city": "Oslo"}
        return {"record_id": "r", "features": features, "prediction": 1.0, "probability": 0.9, **changed}

    return {
        "an ordinary generation": generation(),
        "an unsupported response": generation(response="Penguins cannot fly. They swim well."),
        "a short response": generation(response="Yes."),
        "an empty response": generation(response=""),
        "a response that is None": generation(response=None),
        "a response of white space": generation(response=" \t\r\n\u00a0\u2003"),
        "a response of punctuation": generation(response="... !? --"),
        "no question": generation(question=None),
        "an empty question": generation(question=""),
        "no contexts": generation(contexts=[]),
        "an empty context": generation(contexts=["", *contexts]),
        "200 contexts": generation(contexts=contexts * 100),
        "unicode": generation(response="Το ύψος είναι 330 μέτρα 🗼. 塔は高い。 \u202eabc\u202c e\u0301\u0301 \ufeff"),
        "a lone surrogate": generation(question="a\udc00b", response="It is \ud83d tall.", contexts=["\udfff metres"]),
        "control characters": generation(response="330\x00 metres\x07 tall.\x1b[0m"),
        "100 kB of text": generation(response=long),
        "100 kB without a space": generation(response="a" * 100_000),
        "a context of 100 kB": generation(contexts=[long]),
        "a response that is a number": generation(response=42),
        "contexts that are one text": generation(contexts="The tower is 330 metres tall."),
        "contexts that are not texts": generation(contexts=[None, 3]),
        "a row without keys": {},
        "a row with an id only": {"record_id": "r"},
        "an ordinary prediction": prediction(),
        "features that are missing": prediction(features={"amount": None, "visits": math.nan, "city": None}),
        "infinite features": prediction(features={"amount": math.inf, "visits": -math.inf, "city": ""}),
        "no features": prediction(features={}),
        "a prediction that is None": prediction(prediction=None, probability=None),
        "a prediction that is NaN": prediction(prediction=math.nan, probability=math.nan),
    }


def _columns(rows: int, seed: int) -> dict[str, NDArray[Any]]:
    """Numbers, whole numbers, categories, and predictions of two classes that are right four times in five."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, rows).astype(np.float64)
    return {
        "amount": rng.lognormal(3, 1, rows),
        "visits": rng.poisson(4, rows).astype(np.float64),
        "city": rng.choice(np.array(["Oslo", "Rome", "Lima"], dtype=object), rows),
        "prediction": np.where(rng.random(rows) < 0.8, label, 1 - label),
        "probability": np.clip(0.6 * label + 0.4 * rng.random(rows), 0, 1),
        "label": label,
    }


def _frame(columns: Mapping[str, NDArray[Any]], **changed: Any) -> Frame:
    given = {**columns, **{name: np.asarray(values) for name, values in changed.items()}}
    return Frame(given, features={f: "category" if f == "city" else "number" for f in FEATURES})
