#!/usr/bin/env python3
"""Write what scikit-learn and scipy say of awkward predictions, for the tests of the metrics.

    tools/reference/metrics.py crates/metrics/tests/reference.json

`null` is NaN: undefined. Needs numpy, scipy, scikit-learn.
"""

import json
import sys
import warnings
from importlib.metadata import version

import numpy as np
from scipy import stats
from sklearn import metrics

warnings.filterwarnings("ignore")


def number(value):
    value = float(value)
    return value if np.isfinite(value) else None


def classes(name, expected, predicted, count):
    labels = list(range(count))
    return dict(name=name, expected=list(map(int, expected)), predicted=list(map(int, predicted)), classes=count, scores={
        "accuracy": number(metrics.accuracy_score(expected, predicted)),
        "f1": number(metrics.f1_score(expected, predicted, labels=labels, average=None, zero_division=0)[1]),
        "macro-f1": number(metrics.f1_score(expected, predicted, average="macro", zero_division=0)),
        "matthews": number(metrics.matthews_corrcoef(expected, predicted)),
    })


def values(name, expected, predicted):
    expected, predicted = np.array(expected, float), np.array(predicted, float)
    finite = np.isfinite(expected).all() and np.isfinite(predicted).all()
    squares = (expected - predicted) ** 2
    return dict(name=name, expected=[number(v) for v in expected], predicted=[number(v) for v in predicted], scores={
        "pearson": number(stats.pearsonr(expected, predicted)[0]) if finite else None,
        "spearman": number(stats.spearmanr(expected, predicted)[0]),
        "mse": number(metrics.mean_squared_error(expected, predicted)) if finite else None,
    }, mse_error=number(stats.sem(squares)) if finite else None)


def many(count):
    """Values with ties that a test draws by the same rule: 0 to 999, and another series beside it."""
    i = np.arange(count, dtype=np.uint64)
    a = (i * np.uint64(2654435761) % np.uint64(2**32)) // np.uint64(4294968)
    b = (i * np.uint64(40503) % np.uint64(65536)) // np.uint64(7) + a * np.uint64(5)
    return a.astype(float), b.astype(float)


def main():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    x = rng.normal(size=40)
    y = np.round(x + rng.normal(size=40), 1)
    large_a, large_b = many(200_000)
    tokens = rng.integers(1, 30, 20)
    losses = rng.gamma(2.0, 1.0, 20) * tokens
    reference = dict(
        reference=f"scikit-learn {version('scikit-learn')}, scipy {version('scipy')}, numpy {version('numpy')}",
        classes=[
            classes("four classes", a, b, 4),
            classes("one class expected", [1, 1, 1, 1], [0, 1, 1, 0], 2),
            classes("one class predicted", [0, 1, 1, 0, 1], [1, 1, 1, 1, 1], 2),
            classes("one class only", [1, 1, 1], [1, 1, 1], 2),
            classes("one class only, not the positive one", [0, 0, 0], [0, 0, 0], 2),
            classes("a class that is nowhere", [0, 2, 2, 0, 1], [0, 2, 0, 0, 1], 4),
            classes("two items", [0, 1], [1, 0], 2),
            classes("one item", [1], [1], 2),
        ],
        values=[
            values("drawn, with ties", x, y),
            values("ties on both sides", [1, 1, 2, 2, 3, 3], [5, 5, 5, 1, 1, 7]),
            values("constant predictions", [1.0, 2.0, 3.0], [0.1, 0.1, 0.1]),
            values("constant targets", [0.3, 0.3, 0.3, 0.3], [1.0, 2.0, 3.0, 5.0]),
            values("two items", [1.0, 2.0], [3.0, -1.0]),
            values("two items, constant", [1.0, 2.0], [0.7, 0.7]),
            values("large numbers", [1e200, 2e200, -1e200], [1e200, 3e200, 0.0]),
            values("far from zero", 1e8 + x[:10], 1e8 + y[:10]),
            values("NaN predicted", [1.0, 2.0, 3.0], [1.0, float("nan"), 2.0]),
        ],
        tokens=dict(sum_loss=list(map(float, losses)), tokens=list(map(int, tokens)),
                    loss=number(losses.sum() / tokens.sum()),
                    perplexity=number(np.exp(losses.sum() / tokens.sum()))),
        many=dict(spearman=number(stats.spearmanr(large_a, large_b)[0]), pearson=number(stats.pearsonr(large_a, large_b)[0]),
                  first_ranks=list(map(float, stats.rankdata(large_a)[:5]))),
    )
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(reference, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
