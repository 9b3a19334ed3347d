"""Texts: can a classifier tell the words of the window from those of the reference?

Evidently's `perc_text_content_drift` and `abs_text_content_drift`: a linear model over tf-idf learns from a random half of the
texts of both sides, and the area under its ROC curve on the other half says how far apart they are, 0.5 for not at all. Equal to
Evidently 0.7.23 in value. The split is seeded by 42, and the random classifiers that `perc_` compares with as theirs, but from
generators of their own: the global one stays as it was.

scikit-learn does the learning and is imported on first use.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import rankdata

from detectors.contract import Categories, FloatArray, NotEnoughData, NotEvaluable, Part

RANDOM_CLASSIFIERS = 1000
ORACLE = "evidently 0.7.23"


@dataclass(frozen=True, slots=True)
class TextTest:
    """`judges` as in `stattests.StatTest`; the threshold of `perc_` is a quantile of what chance gives."""

    name: str
    threshold: float
    judges: Literal["value"] = "value"


TEXT_TESTS = {t.name: t for t in (TextTest("perc_text_content_drift", 0.95), TextTest("abs_text_content_drift", 0.55))}


def part(
    blank: Part, method: str, reference: Categories, current: Categories, *, threshold: float | None, calibrated: bool
) -> Part:
    """The part of a column of texts. With `calibrated`, its p-value is how often chance ranks the half that was held out so well.

    Raises:
        NotEnoughData, NotEvaluable: no model can be learned from these texts.
    """
    x, y = (_texts(side) for side in (reference, current))
    if min(len(x), len(y)) < 2:
        raise NotEnoughData("texts on either side: 2 are needed")
    area, held_out = domain_classifier(x, y)
    found = replace(blank, value=area)
    if calibrated:
        ones = int(held_out.sum())
        return replace(found, p_value=p_value_of_area(area, ones, len(held_out) - ones))
    asked = TEXT_TESTS[method].threshold if threshold is None else threshold
    limit = asked if method == "abs_text_content_drift" else random_area(held_out, asked)
    return replace(found, threshold=limit, flagged=area > limit, library=ORACLE)


def _texts(column: Categories) -> list[str]:
    return [column.names[code] for code in column.codes if code >= 0]


def domain_classifier(reference: list[str], current: list[str]) -> tuple[float, NDArray[np.int64]]:
    """Area under the ROC curve on the half held out, and which texts of that half are the window's (1) or the reference's (0).

    Raises:
        NotEvaluable: no word is left, or the half learned from is of one side.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import train_test_split

    texts = np.array([*reference, *current], dtype=object)
    side = np.array([0] * len(reference) + [1] * len(current))
    train, test, of_train, of_test = train_test_split(texts, side, test_size=0.5, random_state=42, shuffle=True)
    words: Any = TfidfVectorizer(sublinear_tf=True, max_df=0.5, stop_words="english")
    model: Any = SGDClassifier(alpha=0.0001, max_iter=50, penalty="l1", loss="modified_huber", random_state=42)
    if min(len(set(of_train.tolist())), len(set(of_test.tolist()))) < 2:
        raise NotEnoughData("too few texts: one half of them is of one side")
    try:
        with warnings.catch_warnings():
            # Its 50 passes are theirs; where they do not suffice, the value is still that of the model they end in.
            warnings.filterwarnings("ignore", "Maximum number of iteration reached", UserWarning)
            model.fit(words.fit_transform(train), of_train)
    except ValueError as exc:  # only stop words, or words in more than half of the texts
        raise NotEvaluable("constant", str(exc)) from exc
    return area_under_curve(of_test == 1, model.predict_proba(words.transform(test))[:, 1]), of_test


def area_under_curve(positive: NDArray[np.bool_], score: FloatArray) -> float:
    """Probability that a positive's score is above a negative's, ties counting half."""
    ranks, n = rankdata(score), int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def p_value_of_area(area: float, positives: int, negatives: int) -> float:
    """One-sided, that a ranking by chance is as good: Mann and Whitney's U by its normal approximation."""
    deviation = math.sqrt((positives + negatives + 1) / (12 * positives * negatives))
    return float(ndtr(-(area - 0.5) / deviation))


def random_area(held_out: NDArray[np.int64], quantile: float) -> float:
    """The quantile of the areas that 1,000 random classifiers reach on these texts, seeded as Evidently's."""
    seeds = np.random.RandomState(42).randint(0, RANDOM_CLASSIFIERS * 10, size=RANDOM_CLASSIFIERS)
    positive = held_out == 1
    areas = [area_under_curve(positive, np.random.RandomState(seed).rand(len(held_out))) for seed in seeds]
    return float(np.percentile(areas, 100 * quantile))
