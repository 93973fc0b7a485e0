#!/usr/bin/env python3
"""Write what scipy and statsmodels say of critical values, quantiles, variance components and standard errors, for the
tests of the marks.

    tools/reference/marks.py crates/report/src/marks/reference.json

Needs numpy, scipy, statsmodels.
"""

import json
import sys
from importlib.metadata import version

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests

rng = np.random.default_rng(12)


def quantiles():
    return [dict(p=p, df=df, t=float(stats.t.ppf(p, df))) for p in (0.8, 0.975, 0.999, 0.99999) for df in (2, 4, 7.5, 30, 1e4)]


def ranges():
    """Tukey's critical values over the root of two, for infinitely many degrees of freedom."""
    return [
        dict(methods=k, critical=float(stats.studentized_range.ppf(0.95, k, np.inf) / np.sqrt(2)))
        for k in (2, 3, 5, 10, 26, 60)
    ]


def dunnett():
    """The two-sided critical value of comparisons with one fixed method, below which those of all pairs cannot lie."""
    out = []
    for k in (3, 5, 10):
        corr = np.full((k - 1, k - 1), 0.5) + 0.5 * np.eye(k - 1)
        joint = stats.multivariate_normal(np.zeros(k - 1), corr, allow_singular=True, seed=1)
        low, high = 1.5, 4.0
        for _ in range(30):
            middle = (low + high) / 2
            inside = joint.cdf(np.full(k - 1, middle), lower_limit=np.full(k - 1, -middle))
            low, high = (middle, high) if inside < 0.95 else (low, middle)
        out.append(dict(methods=k, critical=float(high)))
    return out


def holm():
    p = rng.uniform(0, 0.1, 9).tolist()
    return dict(p=p, adjusted=multipletests(p, method="holm")[1].tolist())


def components():
    """Square errors of one method's seeds and items: the mean squares of a two-way layout without replication."""
    seeds, items = 4, 12
    error = rng.normal(1, 0.3, (seeds, 1)) * np.abs(rng.normal(2, 1, (1, items))) + rng.normal(0, 0.4, (seeds, items))
    table = pd.DataFrame([dict(seed=s, item=i, y=error[s, i] ** 2) for s in range(seeds) for i in range(items)])
    squares = anova_lm(ols("y ~ C(seed) + C(item)", table).fit())["mean_sq"]
    return dict(
        errors=error.tolist(),
        # a run's score is a mean over items; the mean's item part is one over seeds
        over_seeds=float(squares["C(seed)"] / items),
        residual=float(squares["Residual"] / items),
        items=float(squares["C(item)"] / seeds / items),
    )


def student():
    """Two methods of one score a seed each: what a test over seeds alone says."""
    a, b = rng.normal(0, 1, 40), rng.normal(0.6, 1, 40)
    test = stats.ttest_ind(a, b)
    return dict(a=a.tolist(), b=b.tolist(), p=float(test.pvalue), interval=[float(x) for x in test.confidence_interval()])


def errors():
    """Standard errors of correlations: of many items, the jackknife's are those of the influence."""
    x = rng.normal(0, 1, 300)
    y = np.round(x + rng.normal(0, 0.7, 300), 1)
    x = np.round(x, 1)

    def jackknife(statistic):
        left_out = np.array([statistic(np.delete(x, i), np.delete(y, i)) for i in range(len(x))])
        return float(np.sqrt((len(x) - 1) * left_out.var()))

    return dict(
        predicted=x.tolist(),
        expected=y.tolist(),
        pearson=jackknife(lambda a, b: stats.pearsonr(a, b)[0]),
        spearman=jackknife(lambda a, b: stats.spearmanr(a, b)[0]),
    )


reference = dict(
    made_with={name: version(name) for name in ("numpy", "scipy", "statsmodels")},
    quantiles=quantiles(), ranges=ranges(), dunnett=dunnett(), holm=holm(), components=components(), student=student(),
    errors=errors(),
)
with open(sys.argv[1], "w") as file:
    json.dump(reference, file, indent=1)
    file.write("\n")
