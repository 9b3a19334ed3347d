"""Trains the toxicity heads and writes them with their card: `python -m detectors.training.toxicity --data DIR`.

DIR holds train.jsonl.gz and dev.jsonl.gz with `source, text, label` (1: toxic) and `hate` (1, 0 or null). `--ordinary DIR` adds
texts that nobody would object to (`response` or `text` of each row), so that harmless traffic is not all new to the heads.
Sentences made up in `contrast_abuse` are a source of their own. Sources weigh equally, and the two labels inside each, unless
`WEIGHTS` says otherwise. Ten to twenty minutes on two cores, most of it encoding; `--cache FILE` keeps the vectors.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import minimize

from detectors.cascade import Band
from detectors.contract import Encoder
from detectors.embedding import EncoderConfig, SentenceEncoder
from detectors.evaluation import Figure, evaluate
from detectors.static import shared
from detectors.toxicity import Toxicity
from detectors.toxicity_head import LABELS, NAME, Head, Stage, load_head, save_head
from detectors.toxicity_text import BITS, grams, plain
from detectors.training.bands import auroc, losses
from detectors.training.contrast_abuse import SOURCE as MADE_UP
from detectors.training.contrast_abuse import made_up
from detectors.training.figures import rounded

FloatArray = NDArray[np.float64]

SEED = 0
L2_GRAMS, L2_VECTOR = 8e-6, 2e-5
STEPS = 50  # of L-BFGS; more change no figure in its second digit
MADE_UP_EACH = 1_500
MOST_ROWS = 6_000  # of one source; more of Davidson's 19,000 tweets cost time and change nothing, as sources weigh equally
ORDINARY = "ordinary"
WEIGHTS = {MADE_UP: 4.0, ORDINARY: 1.0}
ABUSE_SOURCES = ("convabuse", "davidson")  # whose positives are abuse; the others' are hate, and may be abuse or not
BOOTSTRAPS = 1_000
FALSE_FLAGS, ORDINARY_FALSE_FLAGS = 0.10, 0.01
CASCADE_LOSS = 0.005  # of the mean AUROC within sources that the first stage may cost: half of 0.01, chance has the other half
SOURCES = {
    "davidson": "t-davidson/hate-speech-and-offensive-language, MIT",
    "stormfront": "Vicomtech/hate-speech-dataset, CC-BY-SA 3.0",
    "convabuse": "amandacurry/convabuse, CC-BY 4.0",
    "hatemoji_build": "HannahKirk/Hatemoji, CC-BY 4.0",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the toxicity heads.")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl.gz and dev.jsonl.gz")
    parser.add_argument("--ordinary", type=Path, action="append", default=[], metavar="DIR", help="the same of harmless texts")
    parser.add_argument("--out", type=Path, default=Path("detectors/weights"), help="where the heads and their card go")
    parser.add_argument("--cache", type=Path, help="an .npz of vectors: read where it is, written at the end")
    options = parser.parse_args(arguments)
    encoder = Cached(SentenceEncoder(EncoderConfig(cache_bytes=0)), options.cache)
    table = tabulate(options.data, options.ordinary, shared(), encoder)
    encoder.save()
    card = write(table, options.out)
    print(json.dumps({key: card[key] for key in ("leave_one_source_out", "dev", "flag", "band")}, indent=1))
    return 0


# --- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Table:
    """Texts with what the heads see of them. Labels are 1, 0, or -1 where it is not known."""

    source: NDArray[np.str_]
    dev: NDArray[np.bool_]
    labels: NDArray[np.int8]  # (n, LABELS)
    grams: Any  # csr (n, 2**BITS), each row over the root of its number of features
    static: NDArray[np.float32]
    vector: NDArray[np.float32]
    untouched: NDArray[np.float32]  # the shared encoder's vector of the text as it came, for the baseline; 0 where it has no part
    names: tuple[str, str]  # of the static and of the shared encoder

    def where(self, rows: NDArray[np.bool_]) -> Table:
        return replace(
            self, source=self.source[rows], dev=self.dev[rows], labels=self.labels[rows], grams=self.grams[rows],
            static=self.static[rows], vector=self.vector[rows], untouched=self.untouched[rows],
        )  # fmt: skip

    @property
    def toxic(self) -> NDArray[np.bool_]:
        return np.asarray(self.labels[:, 0] == 1, dtype=np.bool_)


class Cached:
    """An encoder that keeps what it has computed in a file, by the hash of the text."""

    def __init__(self, encoder: Encoder, path: Path | None) -> None:
        self.name, self.dimension = encoder.name, encoder.dimension
        self._encoder, self._path = encoder, path
        self._known: dict[str, NDArray[np.float16]] = {}
        if path is not None and path.exists():
            with np.load(path) as content:
                self._known = dict(zip(content["keys"].tolist(), content["vectors"], strict=True))

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        keys = [hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        for start in range(0, len(missing), 1_000):
            some = list(missing)[start : start + 1_000]
            vectors = self._encoder.encode([missing[key] for key in some]).astype(np.float16)
            self._known.update(zip(some, vectors, strict=True))
        return np.array([self._known[key] for key in keys], dtype=np.float32).reshape(len(keys), self.dimension)

    def save(self) -> None:
        if self._path is not None:
            np.savez(self._path, keys=np.array(list(self._known)), vectors=np.array(list(self._known.values())))


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def tabulate(data: Path, ordinary: Sequence[Path], static: Encoder, encoder: Encoder) -> Table:
    rows: list[tuple[str, str, bool, tuple[int, int, int]]] = []  # source, text, dev, labels
    rng = np.random.default_rng(SEED)
    for part in ("train", "dev"):
        found = read(data / f"{part}.jsonl.gz")
        by_source: dict[str, list[dict[str, Any]]] = {}
        for row in found:
            by_source.setdefault(row["source"], []).append(row)
        for source, some in sorted(by_source.items()):
            chosen = some if part == "dev" else [some[i] for i in np.sort(rng.permutation(len(some))[:MOST_ROWS])]
            rows += [(source, row["text"], part == "dev", labels_of(row)) for row in chosen]
        for folder in ordinary:
            texts = sorted({str(row.get("response") or row.get("text") or "")[:400] for row in read(folder / f"{part}.jsonl.gz")
                            if row.get("source") in (None, "halueval_queries")} - {""})  # fmt: skip
            chosen_texts = [texts[i] for i in np.sort(rng.permutation(len(texts))[: MOST_ROWS // 4])]
            rows += [(ORDINARY, text, part == "dev", (0, 0, 0)) for text in chosen_texts]
    held = rng.random(10 * MADE_UP_EACH) < 0.15
    rows += [
        (MADE_UP, one.text, bool(held[i]), (one.abuse | one.hate, one.abuse, one.hate))
        for i, one in enumerate(made_up(MADE_UP_EACH, SEED))
    ]
    texts = [plain(text) for _, text, _, _ in rows]
    features = grams(texts)
    size = np.repeat(1.0 / np.sqrt(np.maximum(np.diff(features.starts), 1)), np.diff(features.starts))
    real = np.array([source not in (MADE_UP, ORDINARY) for source, *_ in rows])
    untouched = np.zeros((len(rows), encoder.dimension), dtype=np.float32)
    untouched[real] = encoder.encode([text for (_, text, _, _), is_real in zip(rows, real, strict=True) if is_real])
    return Table(
        np.array([source for source, *_ in rows]),
        np.array([dev for _, _, dev, _ in rows]),
        np.array([labels for *_, labels in rows], dtype=np.int8),
        sp.csr_matrix((size.astype(np.float32), features.columns, features.starts), shape=(len(rows), 2**BITS)),
        static.encode(texts),
        encoder.encode(texts),
        untouched,
        (static.name, encoder.name),
    )


def labels_of(row: dict[str, Any]) -> tuple[int, int, int]:
    toxic = int(row["label"])
    abuse = toxic if row["source"] in ABUSE_SOURCES or not toxic else -1
    return toxic, abuse, -1 if row["hate"] is None else int(row["hate"])


def weights_of(table: Table, label: int) -> FloatArray:
    """Every label of every source the same, but for `WEIGHTS`; 0 where the label is not known. They add up to 1."""
    out = np.zeros(len(table.source))
    for source in np.unique(table.source):
        for value in (0, 1):
            cell = (table.source == source) & (table.labels[:, label] == value)
            out[cell] = WEIGHTS.get(str(source), 1.0) / max(1, cell.sum())
    return np.asarray(out / out.sum(), dtype=np.float64)


# --- fitting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """A logistic regression over hashed features and a vector."""

    grams: FloatArray
    vector: FloatArray
    bias: float

    def logits(self, table_grams: Any, vector: NDArray[np.float32]) -> FloatArray:
        return np.asarray(table_grams @ self.grams + vector @ self.vector + self.bias, dtype=np.float64)


def fit(table: Table, label: int, vector: NDArray[np.float32]) -> Line:
    weight = weights_of(table, label)
    rows = weight > 0
    weight, x, v = weight[rows], table.grams[rows].astype(np.float64), vector[rows].astype(np.float64)
    xt, many = x.T.tocsr(), x.shape[1]
    sign = np.where(table.labels[rows, label] == 1, 1.0, -1.0)
    l2 = np.concatenate([np.full(many, L2_GRAMS), np.full(v.shape[1], L2_VECTOR), [0.0]])

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        margin = (x @ theta[:many] + v @ theta[many:-1] + theta[-1]) * sign
        slope = -weight * sign * np.exp(-np.logaddexp(0.0, margin))
        value = weight @ np.logaddexp(0.0, -margin) + l2 @ (theta * theta)
        return float(value), np.concatenate([xt @ slope, v.T @ slope, [slope.sum()]]) + 2 * l2 * theta

    found = minimize(loss, np.zeros(len(l2)), jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
    return Line(found[:many], found[many:-1], float(found[-1]))


def calibrated(logits: FloatArray, table: Table, label: int) -> tuple[float, float]:
    """Slope and intercept that make probabilities of logits (Platt, 1999), sources and labels weighing as in training."""
    real = replace(table, source=np.where(table.source == MADE_UP, "", table.source))
    weight = np.where(table.source == MADE_UP, 0.0, weights_of(real, label))
    weight /= weight.sum()
    sign = np.where(table.labels[:, label] == 1, 1.0, -1.0)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        margin = (theta[0] * logits + theta[1]) * sign
        slope = -weight * sign * np.exp(-np.logaddexp(0.0, margin))
        return float(weight @ np.logaddexp(0.0, -margin)), np.array([slope @ logits, slope.sum()])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.05, None), (None, None)]).x
    return float(found[0]), float(found[1])


def train(table: Table, labels: int = len(LABELS), given: Band | None = None) -> Head:
    """Fitted on train, calibrated on dev; the band is `given`, or chosen on dev, too. `labels`: only so many of `LABELS`."""
    known, unseen = table.where(~table.dev), table.where(table.dev)
    stages: list[list[tuple[FloatArray, FloatArray, float]]] = [[], []]
    for label in range(labels):
        first, second = fit(known, label, known.static), fit(known, label, known.vector)
        both = np.concatenate([first.vector, second.vector])
        for stage, one, vector, seen in (
            (0, first, first.vector, unseen.static),
            (
                1,
                Line(first.grams + second.grams, both, first.bias + second.bias),
                both,
                np.hstack([unseen.static, unseen.vector]),
            ),
        ):
            slope, intercept = calibrated(one.logits(unseen.grams, seen), unseen, label)
            stages[stage].append((slope * one.grams, slope * vector, slope * one.bias + intercept))
    first_stage, second_stage = (
        Stage(
            np.stack([w for w, _, _ in one], axis=1).astype(np.float32),
            np.stack([v for _, v, _ in one], axis=1).astype(np.float32),
            np.array([b for _, _, b in one]),
        )
        for one in stages
    )
    head = Head(first_stage, second_stage, Band(0.0, 1.0), *table.names)
    head = load_head(save_head(head), *table.names)  # as shipped: rounded
    return replace(head, band=given or band(unseen, *probabilities(head, unseen)))


def probabilities(head: Head, table: Table) -> tuple[FloatArray, FloatArray]:
    """Of both stages for all rows, (n, labels) each."""

    def of(stage: Stage, vector: NDArray[np.float32]) -> FloatArray:
        logits = table.grams @ stage.grams + vector.astype(np.float64) @ stage.vector + stage.bias
        return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float64)

    return of(head.first, table.static), of(head.second, np.hstack([table.static, table.vector]))


def cascaded(head: Head, table: Table) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Toxicity as the detector gives it, and where the second stage gave it."""
    first, second = probabilities(head, table)
    asked = (first[:, 0] >= head.band.low) & (first[:, 0] <= head.band.high)
    return np.where(asked, second[:, 0], first[:, 0]), asked


def band(dev: Table, first: FloatArray, second: FloatArray) -> Band:
    """The narrowest band of the first stage's toxicity that costs at most `CASCADE_LOSS` of AUROC, in hundredths: what lies
    outside keeps the first stage's word. Narrow is what asks the second stage least on ordinary texts."""
    best, least = Band(0.0, 1.0), np.inf
    whole = within(dev, second[:, 0])
    ordinary = dev.source == ORDINARY
    for low in np.arange(0.0, 0.6, 0.02):
        for high in np.arange(0.7, 1.001, 0.02):
            asked = (first[:, 0] >= low) & (first[:, 0] <= high)
            share = float(asked[ordinary].mean()) + 0.1 * float(asked.mean()) if ordinary.any() else float(asked.mean())
            if share < least and within(dev, np.where(asked, second[:, 0], first[:, 0])) >= whole - CASCADE_LOSS:
                best, least = Band(rounded(float(low), 2), rounded(float(high), 2)), share
    return best


def within(table: Table, value: FloatArray) -> float:
    """Mean of AUROC inside the real sources."""
    return float(np.mean([auroc(table.toxic[m], value[m]) for m in (table.source == s for s in real_sources(table))]))


def real_sources(table: Table) -> list[str]:
    return [str(s) for s in np.unique(table.source) if s not in (MADE_UP, ORDINARY)]


# --- figures ---------------------------------------------------------------------------------------------------------


def leave_one_source_out(table: Table, shipped: Band) -> dict[str, Any]:
    """Each source's dev, judged in the shipped band by heads that saw nothing of that source, beside logistic regression on the
    same vectors."""
    ours, theirs, shares = {}, {}, {}
    draws = []
    rng = np.random.default_rng(SEED)
    for source in real_sources(table):
        rest, held = table.where(table.source != source), table.where((table.source == source) & table.dev)
        value, asked = cascaded(train(rest, labels=1, given=shipped), held)
        plain_ = plain_regression(rest, held)
        ours[source], theirs[source] = auroc(held.toxic, value), auroc(held.toxic, plain_)
        shares[source] = float(asked.mean())
        rows = rng.integers(len(value), size=(BOOTSTRAPS, len(value)))
        draws.append([(auroc(held.toxic[r], value[r]), auroc(held.toxic[r], plain_[r])) for r in rows])
    mean = np.mean(np.array(draws), axis=0)  # (draws, 2)
    by_source = np.array(draws)
    low, high = np.nanpercentile(np.column_stack([mean, mean[:, 0] - mean[:, 1]]), [2.5, 97.5], axis=0)
    return {
        "mean": rounded(float(np.mean(list(ours.values())))), "mean_95": [rounded(low[0]), rounded(high[0])],
        "plain": rounded(float(np.mean(list(theirs.values())))), "plain_95": [rounded(low[1]), rounded(high[1])],
        "gain": rounded(float(np.mean(list(ours.values())) - np.mean(list(theirs.values())))),
        "gain_95": [rounded(low[2]), rounded(high[2])],
        "sources": {
            s: {
                "auroc": rounded(ours[s]),
                "auroc_95": [rounded(x) for x in np.nanpercentile(by_source[i, :, 0], [2.5, 97.5])],
                "plain": rounded(theirs[s]),
                "plain_95": [rounded(x) for x in np.nanpercentile(by_source[i, :, 1], [2.5, 97.5])],
                "second_stage": rounded(shares[s]),
            }
            for i, s in enumerate(ours)
        },
    }  # fmt: skip


def plain_regression(rest: Table, held: Table) -> FloatArray:
    """What is to be beaten: scikit-learn's logistic regression on the encoder's vectors of the real texts."""
    from sklearn.linear_model import LogisticRegression

    known = rest.where(~rest.dev & ~np.isin(rest.source, (MADE_UP, ORDINARY)))
    model = LogisticRegression(max_iter=1_000).fit(known.untouched, known.toxic)
    return np.asarray(model.decision_function(held.untouched), dtype=np.float64)


def lost(dev: Table, second: FloatArray, value: FloatArray) -> dict[str, list[float]]:
    """AUROC lost against the second stage for all, on the same resampled rows: lower end, mean and upper end of the interval."""
    real = np.isin(dev.source, real_sources(dev))
    rows = np.arange(real.sum()).astype(str)
    found = losses(dev.toxic[real], dev.source[real], rows, second[real], value[real], draws=BOOTSTRAPS)
    return {name: [rounded(v, 4) for v in interval] for name, interval in found._asdict().items()}


def figures(table: Table, value: FloatArray, flag: float) -> dict[str, Any]:
    """Of real dev rows: all figures by source, and their mean, with intervals."""
    real = ~np.isin(table.source, (MADE_UP, ORDINARY))
    found = evaluate(
        table.toxic[real], value[real], worse="higher", flag=flag, groups=table.source[real].tolist(), resamples=BOOTSTRAPS
    )
    out: dict[str, Any] = {"macro": shown(found.macro)}
    return out | {name: {"rows": one.rows, "toxic": one.bad, **shown(one.figures)} for name, one in found.groups.items()}


def cross_fitted(dev: Table, first: FloatArray, second: FloatArray, halves: int = 20) -> dict[str, list[float]]:
    """What band and flag are worth on rows that had no part in choosing them: both are chosen on a random half of dev and
    measured on the other. Of `halves` splits [lowest, mean, highest]: AUROC lost inside the sources, false and true flags."""
    rng = np.random.default_rng(SEED)
    found: dict[str, list[float]] = {"cascade_loss": [], "false_flags": [], "true_flags": []}
    cells = np.unique(np.column_stack([dev.source, dev.toxic.astype(str)]), axis=0, return_inverse=True)[1].reshape(-1)
    for _ in range(halves):
        chosen = np.zeros(len(dev.source), dtype=bool)
        for cell in range(cells.max() + 1):  # half of each source's toxic and of its harmless texts
            rows = rng.permutation(np.flatnonzero(cells == cell))
            chosen[rows[::2]] = True
        one, other = dev.where(chosen), dev.where(~chosen)
        low, high = band(one, first[chosen], second[chosen])
        asked = (first[:, 0] >= low) & (first[:, 0] <= high)
        value = np.where(asked, second[:, 0], first[:, 0])
        said = value[~chosen] >= flag_at(one, value[chosen])
        found["cascade_loss"].append(within(other, second[~chosen][:, 0]) - within(other, value[~chosen]))
        for name, toxic in (("false_flags", False), ("true_flags", True)):
            rates = [said[(other.source == s) & (other.toxic == toxic)].mean() for s in real_sources(other)]
            found[name].append(float(np.mean(rates)))
    return {name: [rounded(min(v), 4), rounded(float(np.mean(v)), 4), rounded(max(v), 4)] for name, v in found.items()}


def shown(found: dict[str, Figure]) -> dict[str, Any]:
    return {
        name: None if one.value is None else [rounded(one.value), rounded(one.low or 0.0), rounded(one.high or 0.0)]
        for name, one in found.items()
    }


def flag_at(dev: Table, value: FloatArray) -> float:
    """The lowest threshold, in hundredths, with at most so many false flags in the mean of the sources and on ordinary texts."""
    grid = np.arange(0.30, 0.99, 0.01)
    for threshold in grid:
        said = value >= threshold
        rates = [float(said[(dev.source == s) & ~dev.toxic].mean()) for s in real_sources(dev)]
        ordinary = dev.source == ORDINARY
        if np.mean(rates) <= FALSE_FLAGS and (not ordinary.any() or said[ordinary].mean() <= ORDINARY_FALSE_FLAGS):
            return rounded(float(threshold), 2)
    return rounded(float(grid[-1]), 2)


# --- writing ---------------------------------------------------------------------------------------------------------


def write(table: Table, out: Path, *, figures_too: bool = True) -> dict[str, Any]:
    """The two files; the card."""
    head = train(table)
    content = save_head(head)
    dev = table.where(table.dev)
    value, asked = cascaded(head, dev)
    flag = flag_at(dev, value)
    made, ordinary = dev.source == MADE_UP, dev.source == ORDINARY
    first, second = probabilities(head, dev)
    card: dict[str, Any] = {
        "detector": Toxicity.name,
        "version": Toxicity.version,
        "file": f"{NAME}.safetensors",
        "sha256": hashlib.sha256(content).hexdigest(),
        "trained": datetime.now(UTC).date().isoformat(),
        "static": table.names[0],
        "encoder": table.names[1],
        "labels": list(LABELS),
        "bits": BITS,
        "model": "two stages of logistic regressions over hashed words, word pairs, character n-grams and vectors",
        "settings": {
            "seed": SEED, "l2_grams": L2_GRAMS, "l2_vector": L2_VECTOR, "steps": STEPS, "made_up_each": MADE_UP_EACH,
            "most_rows": MOST_ROWS, "weights": WEIGHTS,
        },
        "data": SOURCES,
        "rows": {str(s): int((~table.dev & (table.source == s)).sum()) for s in np.unique(table.source)},
        "band": list(head.band),
        "flag": flag,
    }  # fmt: skip
    if figures_too:
        card |= {
            "dev": figures(dev, value, flag),
            "within": {
                "first": rounded(within(dev, first[:, 0])),
                "second": rounded(within(dev, second[:, 0])),
                "shipped": rounded(within(dev, value)),
            },
            "cascade_loss": lost(dev, second[:, 0], value),
            "cross_fitted": cross_fitted(dev, first, second),
            "made_up": rounded(auroc(dev.toxic[made], value[made])),
            "made_up_flagged": {
                str(label): rounded(float((value[made & (dev.toxic == bool(label))] >= flag).mean())) for label in (0, 1)
            },
            "ordinary": {"rows": int(ordinary.sum()), "flagged": rounded(float((value[ordinary] >= flag).mean())),
                         "second_stage": rounded(float(asked[ordinary].mean()))} if ordinary.any() else None,
            "leave_one_source_out": leave_one_source_out(table, head.band),
        }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{NAME}.safetensors").write_bytes(content)
    (out / f"{NAME}.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


if __name__ == "__main__":
    sys.exit(main())
