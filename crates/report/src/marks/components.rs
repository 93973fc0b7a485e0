//! What a column's scores vary with: seeds, items, and both together.

use peftlab_metrics::{Influence, Metric, Predictions, influence};

use crate::stats::{deviation, mean};

/// The means of methods that answered the same items, and the parts of their errors. Scores are linear in the items,
/// exactly or to first order ([`influence`]), so that the score of a run is, beside the method's own,
/// `seed + item + residual`: seeds are nested in methods, items are crossed with methods and seeds.
pub(super) struct Column {
    /// Mean score over seeds, of each method.
    pub(super) means: Vec<f64>,
    /// Seeds of each method.
    pub(super) seeds: Vec<usize>,
    /// Sample variance of the scores over the seeds, `seed + residual`; 0 where there is one seed.
    pub(super) over_seeds: Vec<f64>,
    /// Variance of the score of one run through `residual`: which items a seed answers well that another does not. 0
    /// where no method has two seeds.
    pub(super) residual: Vec<f64>,
    /// Covariance of the means through the items, `item + residual / seeds`; methods × methods.
    pub(super) items: Vec<f64>,
    /// Number of items.
    pub(super) count: usize,
}

impl Column {
    /// Of each method's runs, as [`influences`] has them.
    pub(super) fn new(methods: &[Vec<Influence>]) -> Self {
        let count = methods.first().and_then(|runs| runs.first()).map_or(0, |run| run.items.len());
        let mut column = Self {
            means: Vec::new(),
            seeds: Vec::new(),
            over_seeds: Vec::new(),
            residual: Vec::new(),
            items: Vec::new(),
            count,
        };
        let mut of_means = Vec::new();
        for runs in methods {
            let scores: Vec<f64> = runs.iter().map(|run| run.value).collect();
            let mut of_mean = vec![0.0; count];
            for run in runs {
                of_mean.iter_mut().zip(&run.items).for_each(|(mean, own)| *mean += own / runs.len() as f64);
            }
            column.means.push(mean(&scores));
            column.seeds.push(runs.len());
            column.over_seeds.push(deviation(&scores).map_or(0.0, |deviation| deviation.powi(2)));
            column.residual.push(residual(runs, &of_mean).unwrap_or(f64::NAN));
            of_means.push(of_mean);
        }
        // of one seed it is not known: that of the others is taken
        let known: Vec<f64> = column.residual.iter().copied().filter(|value| !value.is_nan()).collect();
        column.residual.iter_mut().filter(|value| value.is_nan()).for_each(|value| *value = mean(&known));
        column.items = covariance(&of_means);
        column
    }

    /// Number of methods.
    pub(super) fn len(&self) -> usize {
        self.means.len()
    }

    /// Whether some method has two seeds: without, nothing is known of other seeds.
    pub(super) fn over_seeds(&self) -> bool {
        self.seeds.iter().any(|seeds| *seeds > 1)
    }

    /// Variance of the difference of the means of `i` and `j` through the items.
    pub(super) fn item_variance(&self, i: usize, j: usize) -> f64 {
        let at = |i: usize, j: usize| self.items[i * self.len() + j];
        (at(i, i) + at(j, j) - 2.0 * at(i, j)).max(0.0)
    }
}

/// What the items do to each run of a method; none of fewer than two items, and where a score is undefined.
pub(super) fn influences(metric: Metric, runs: &[Predictions]) -> Option<Vec<Influence>> {
    let of_run = |run: &Predictions| influence(metric, run).filter(|run| run.items.len() > 1);
    runs.iter().map(of_run).collect()
}

/// The mean square of runs and items together, over the items; none of one run.
fn residual(all: &[Influence], of_mean: &[f64]) -> Option<f64> {
    let (runs, count) = (all.len() as f64, of_mean.len() as f64);
    let squares = |run: &Influence| run.items.iter().zip(of_mean).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let squares: f64 = all.iter().map(squares).sum();
    (all.len() > 1).then(|| squares / ((runs - 1.0) * (count - 1.0)) / count)
}

/// Covariances of the means of rows that each sum to zero.
fn covariance(rows: &[Vec<f64>]) -> Vec<f64> {
    let size = rows.len();
    let mut out = vec![0.0; size * size];
    for i in 0..size {
        for j in 0..=i {
            let count = rows[i].len() as f64;
            let product: f64 = rows[i].iter().zip(&rows[j]).map(|(a, b)| a * b).sum();
            out[i * size + j] = product / (count - 1.0) / count;
            out[j * size + i] = out[i * size + j];
        }
    }
    out
}
