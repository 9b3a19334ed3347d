"""How likely is it by chance that two samples of one column differ so? Tests of significance, as functions of arrays.

p-values equal those of the tests of the same names in Evidently 0.7.23 (`evidently.legacy.calculations.stattests`), some of
which are not the tests we would choose: chi-square and G take the reference's shares as exact, Mann-Whitney looks one way only,
TVD's permutations have a fixed seed. Where theirs is wrong or cannot be computed there is a second function, named for what it
does. Numbers must be finite. A test that is not defined on its samples raises `NotEvaluable`.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy import stats
from scipy.special import chdtrc, ndtr, xlogy

from detectors.contract import FloatArray, NotEnoughData, NotEvaluable
from detectors.distances import Counts, Finding, cramers_v

TVD_PERMUTATIONS = 1_000
MMD_PERMUTATIONS = 100
MMD_ROWS = 4_000
"""Most rows of both sides together for `mmd`: its kernel is square in them."""


# --- numbers ---------------------------------------------------------------------------------------------------------


def t_test(reference: FloatArray, current: FloatArray) -> Finding:
    """Cohen's d, and the two-sided p-value of Student's t test with equal variances."""
    with warnings.catch_warnings():
        # Nearly equal numbers: the statistic still says what it says.
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        result = stats.ttest_ind(reference, current)
    if not np.isfinite(result.statistic):
        raise NotEvaluable("constant", "t_test needs some variance")
    n, m = len(reference), len(current)
    return Finding(abs(float(result.statistic)) * float(np.sqrt(1 / n + 1 / m)), float(result.pvalue))


def mann_whitney(reference: FloatArray, current: FloatArray) -> Finding:
    """Cliff's delta as a size (0..1), and the p-value of Mann and Whitney's U test that the reference is *smaller*.

    One-sided, as Evidently asks it: a column that only fell gives a p-value near 1. See `mann_whitney_two_sided`.
    """
    return _mann_whitney(reference, current, "less")


def mann_whitney_two_sided(reference: FloatArray, current: FloatArray) -> Finding:
    """The same for a shift to either side."""
    return _mann_whitney(reference, current, "two-sided")


def _mann_whitney(reference: FloatArray, current: FloatArray, alternative: str) -> Finding:
    with np.errstate(divide="ignore", invalid="ignore"):  # all values equal: its p-value is then 1
        result = stats.mannwhitneyu(reference, current, alternative=alternative)
    pairs = len(reference) * len(current)
    return Finding(abs(2 * float(result.statistic) / pairs - 1), float(result.pvalue))


def epps_singleton(reference: FloatArray, current: FloatArray) -> Finding:
    """W2 of Epps and Singleton (J. Stat. Comput. Simul. 26 (1986)) and its p-value: compares characteristic functions."""
    if min(len(reference), len(current)) < 5:
        raise NotEnoughData("Epps-Singleton needs five values on either side")
    if stats.iqr(np.hstack((reference, current))) == 0:
        raise NotEvaluable("constant", "the middle half of the values is one value")
    try:
        with warnings.catch_warnings():
            # On few distinct values its covariance has no full rank; the statistic is still theirs.
            warnings.filterwarnings("ignore", "Estimated covariance matrix", UserWarning)
            result = stats.epps_singleton_2samp(reference, current)
    except (ValueError, np.linalg.LinAlgError) as exc:
        raise NotEvaluable("constant", f"Epps-Singleton: {exc}") from exc
    return Finding(float(result.statistic), float(result.pvalue))


def anderson_darling(reference: FloatArray, current: FloatArray) -> Finding:
    """The normalised k-sample A2 of Scholz and Stephens (JASA 82 (1987)) and its p-value, interpolated in 0.001..0.25."""
    if len(np.unique(np.concatenate([reference, current]))) < 2:
        raise NotEvaluable("constant", "Anderson-Darling needs two values")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "p-value (capped|floored)", UserWarning)
        result = stats.anderson_ksamp([reference, current], variant="midrank")
    return Finding(float(result.statistic), float(result.pvalue))


def cramer_von_mises(reference: FloatArray, current: FloatArray) -> Finding:
    """T of the two-sample Cramér-von Mises criterion (Anderson, Ann. Math. Stat. 33 (1962)) and its p-value; exact up to 20
    values a side."""
    if min(len(reference), len(current)) < 2:
        raise NotEnoughData("Cramér-von Mises needs two values on either side")
    result = stats.cramervonmises_2samp(reference, current)
    return Finding(float(result.statistic), float(result.pvalue))


def mmd(reference: FloatArray, current: FloatArray, rng: np.random.Generator) -> Finding:
    """Squared maximum mean discrepancy with a Gaussian kernel of median width over the reference, and its permutation p-value.

    Gretton et al., "A Kernel Two-Sample Test", JMLR 13 (2012). The p-value is the share of 100 permutations that reach the
    value, so it is right to within 0.1; Evidently draws them anew each time, here the caller's generator does. Beyond `MMD_ROWS`
    rows both sides are thinned evenly by it.
    """
    if min(len(reference), len(current)) < 2:
        raise NotEnoughData("MMD needs two values on either side")
    x, y = (_thinned(side, MMD_ROWS * len(side) // (len(reference) + len(current)), rng) for side in (reference, current))
    kernel, n = _kernel(x, y), len(x)
    value = _mmd(kernel, n)
    # Only which rows are on which side changes, so each permutation is a quadratic form and not a new kernel.
    size = len(kernel)
    places = np.argsort(rng.random((MMD_PERMUTATIONS, size)), axis=1)
    left = np.zeros((MMD_PERMUTATIONS, size))
    np.put_along_axis(left, places[:, :n], 1.0, axis=1)
    both = left @ kernel
    xx = np.einsum("ij,ij->i", both, left)
    rows = both.sum(axis=1)
    xy, yy = rows - xx, kernel.sum() - 2 * rows + xx
    m = size - n
    permuted = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
    return Finding(value, float((value <= permuted).mean()))


def _thinned(values: FloatArray, size: int, rng: np.random.Generator) -> FloatArray:
    return values if len(values) <= max(size, 2) else np.sort(rng.choice(values, max(size, 2), replace=False))


def _kernel(x: FloatArray, y: FloatArray) -> FloatArray:
    """(n + m, n + m), 0 on the diagonal: no value is compared with itself."""
    both = np.concatenate([x, y])
    squared = (both[:, None] - both[None, :]) ** 2
    within = squared[: len(x), : len(x)]
    width = 0.5 * np.percentile(within, 50, method="nearest")
    kernel: FloatArray = np.exp(-squared / (2 * (width if width > 0 else 0.5)))
    np.fill_diagonal(kernel, 0.0)
    return kernel


def _mmd(kernel: FloatArray, n: int) -> float:
    m = len(kernel) - n
    within = kernel[:n, :n].sum() / (n * (n - 1)) + kernel[n:, n:].sum() / (m * (m - 1))
    return float(within - 2 * kernel[n:, :n].mean())


# --- counts of categories --------------------------------------------------------------------------------------------


def z_test(reference: Counts, current: Counts) -> Finding:
    """Difference of the share of the first category, and the two-sided p-value of the z test for two proportions (pooled).

    Of more than two categories, the first against all others. One category on both sides is no difference: p is 1.
    """
    if len(reference) == 1:
        return Finding(0.0, 1.0)
    n, m = reference.sum(), current.sum()
    p, q = 1 - reference[0] / n, 1 - current[0] / m
    pooled = (p * n + q * m) / (n + m)
    z = (p - q) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return Finding(abs(float(p - q)), float(2 * (1 - ndtr(abs(z)))))


def g_test(reference: Counts, current: Counts) -> Finding:
    """Cramér's V, and the p-value of the G test that the current counts fit the reference's *counts*.

    Defined for sides of equal size only, as Evidently computes it; for others see `g_test_of_independence`.
    """
    if len(reference) < 2:
        raise NotEvaluable("constant", "a G test needs two categories")
    if reference.sum() != current.sum():
        raise NotEvaluable("wrong_type", "Evidently's g_test needs sides of equal size; use g_test_of_independence")
    with np.errstate(divide="ignore"):
        g = 2 * float(np.sum(xlogy(current, current / reference)))
    return Finding(cramers_v(reference, current), float(chdtrc(len(reference) - 1, g)))


def g_test_of_independence(reference: Counts, current: Counts) -> Finding:
    """Cramér's V, and the p-value of the G test that both sides come from one distribution; the reference is a sample, too.

    Sokal and Rohlf, "Biometry" (1995), chapter 17.
    """
    return _contingency(reference, current, "log-likelihood")


def chisquare_of_independence(reference: Counts, current: Counts) -> Finding:
    """The same with Pearson's chi-square: right where the reference is no larger than the window, where `chisquare` is not."""
    return _contingency(reference, current, "pearson")


def _contingency(reference: Counts, current: Counts, kind: str) -> Finding:
    if len(reference) < 2:
        raise NotEvaluable("constant", "needs two categories")
    result = stats.chi2_contingency(np.array([reference, current]), correction=False, lambda_=kind)
    return Finding(cramers_v(reference, current), float(result.pvalue))


def fisher_exact(reference: Counts, current: Counts) -> Finding:
    """Cramér's V, and the two-sided p-value of Fisher's exact test of a 2 x 2 table."""
    if len(reference) > 2:
        raise NotEvaluable("wrong_type", "Fisher's exact test is for two categories")
    if len(reference) == 1:
        return Finding(0.0, 1.0)
    p_value = stats.fisher_exact(np.array([current, reference])).pvalue
    return Finding(cramers_v(reference, current), float(p_value))


def total_variation(reference: Counts, current: Counts) -> Finding:
    """Total variation distance (0..1) and its permutation p-value: 1,000 permutations with the seed 0, as Evidently's.

    Which permutations those are depends on the order of the rows there, which no counts tell, and rounding there decides
    whether a permutation that gives just the value counts (here it does). So the two p-values differ by their sampling error, at
    most 0.022 at one standard deviation, and by the share of such ties.
    """
    n, m = int(reference.sum()), int(current.sum())
    value = _tvd(reference / n, current / m)
    # How many of each category a random half holds is multivariate hypergeometric: no rows need to be shuffled.
    both = reference + current
    drawn = np.random.default_rng(0).multivariate_hypergeometric(both, n, size=TVD_PERMUTATIONS, method="marginals")
    permuted = np.abs(drawn / n - (both - drawn) / m).sum(axis=1) / 2
    return Finding(value, float((value <= permuted + 1e-12).mean()))


def _tvd(p: FloatArray, q: FloatArray) -> float:
    return float(np.abs(p - q).sum() / 2)
