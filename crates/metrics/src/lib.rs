//! Metrics of predictions, and their errors from the finite number of items.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// What is computed from predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Share of right classes.
    Accuracy,
    /// F1 of class 1.
    F1,
    /// Mean of the classes' F1.
    MacroF1,
    /// Matthews' correlation.
    Matthews,
    /// Pearson's correlation.
    Pearson,
    /// Spearman's rank correlation, ties averaged.
    Spearman,
    /// Mean squared error.
    Mse,
    /// Exponential of the mean loss of a token.
    Perplexity,
    /// Mean loss of a token, in nats.
    Loss,
}

impl Metric {
    /// The metric of this name.
    pub fn parse(name: &str) -> Option<Self> {
        use Metric::{Accuracy, F1, Loss, MacroF1, Matthews, Mse, Pearson, Perplexity, Spearman};
        let all = [Accuracy, F1, MacroF1, Matthews, Pearson, Spearman, Mse, Perplexity, Loss];
        all.into_iter().find(|metric| metric.name() == name)
    }

    /// Its name in experiment files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
            Self::MacroF1 => "macro-f1",
            Self::Matthews => "matthews",
            Self::Pearson => "pearson",
            Self::Spearman => "spearman",
            Self::Mse => "mse",
            Self::Perplexity => "perplexity",
            Self::Loss => "loss",
        }
    }

    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        !matches!(self, Self::Mse | Self::Perplexity | Self::Loss)
    }

    /// Whether it is at most 1 and shown times 100.
    pub fn in_points(self) -> bool {
        self.higher_is_better()
    }
}

/// Predictions of a split, in its order.
#[derive(Clone, Debug, PartialEq)]
pub enum Predictions {
    /// Classes.
    Classes {
        /// What the model says.
        predicted: Vec<usize>,
        /// What is right.
        expected: Vec<usize>,
        /// How many classes there are.
        classes: usize,
    },
    /// Values.
    Values {
        /// What the model says.
        predicted: Vec<f64>,
        /// What is right.
        expected: Vec<f64>,
    },
    /// Losses of texts.
    Tokens {
        /// Summed loss of each text, in nats.
        sum_loss: Vec<f64>,
        /// Tokens that count in each.
        tokens: Vec<usize>,
    },
}

/// A score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// The value. Where the definition divides by zero (one class alone, a constant prediction) it is 0.
    pub value: f64,
    /// Error from the finite number of items: of a mean the sample deviation over the root of n, as
    /// lm-evaluation-harness has it, and otherwise from a bootstrap.
    pub standard_error: Option<f64>,
}

/// Draws of the bootstrap.
const DRAWS: usize = 1000;

/// The value of `metric` and its standard error. A metric that is not for such predictions is 0.
pub fn score(metric: Metric, predictions: &Predictions) -> Scored {
    let count = predictions.len();
    let all: Vec<usize> = (0..count).collect();
    let value = value_at(metric, predictions, &all);
    if count < 2 {
        return Scored { value, standard_error: None };
    }
    let standard_error = if metric == Metric::Accuracy {
        (value * (1.0 - value) / (count - 1) as f64).sqrt()
    } else {
        bootstrap(metric, predictions, count)
    };
    Scored { value, standard_error: Some(standard_error) }
}

fn bootstrap(metric: Metric, predictions: &Predictions, count: usize) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut sample = vec![0; count];
    let values: Vec<f64> = (0..DRAWS)
        .map(|_| {
            sample.iter_mut().for_each(|row| *row = rng.random_range(0..count));
            value_at(metric, predictions, &sample)
        })
        .collect();
    let mean = values.iter().sum::<f64>() / DRAWS as f64;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (DRAWS - 1) as f64).sqrt()
}

impl Predictions {
    /// Number of items.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes { expected, .. } => expected.len(),
            Self::Values { expected, .. } => expected.len(),
            Self::Tokens { tokens, .. } => tokens.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The metric over the items at `rows`, which may repeat.
pub fn value_at(metric: Metric, predictions: &Predictions, rows: &[usize]) -> f64 {
    match predictions {
        Predictions::Classes { predicted, expected, classes } => {
            let mut confusion = vec![vec![0.0; *classes]; *classes];
            for row in rows {
                confusion[expected[*row]][predicted[*row]] += 1.0;
            }
            of_classes(metric, &confusion)
        }
        Predictions::Values { predicted, expected } => {
            let ours: Vec<f64> = rows.iter().map(|row| predicted[*row]).collect();
            let theirs: Vec<f64> = rows.iter().map(|row| expected[*row]).collect();
            match metric {
                Metric::Pearson => pearson(&ours, &theirs),
                Metric::Spearman => pearson(&ranks(&ours), &ranks(&theirs)),
                Metric::Mse => {
                    let squares = ours.iter().zip(&theirs).map(|(a, b)| (a - b).powi(2));
                    squares.sum::<f64>() / rows.len().max(1) as f64
                }
                _ => 0.0,
            }
        }
        Predictions::Tokens { sum_loss, tokens } => {
            let count: usize = rows.iter().map(|row| tokens[*row]).sum();
            let loss = rows.iter().map(|row| sum_loss[*row]).sum::<f64>() / count.max(1) as f64;
            match metric {
                Metric::Perplexity => loss.exp(),
                Metric::Loss => loss,
                _ => 0.0,
            }
        }
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

/// From the confusion matrix, `[expected][predicted]`.
fn of_classes(metric: Metric, confusion: &[Vec<f64>]) -> f64 {
    let classes = confusion.len();
    let total: f64 = confusion.iter().flatten().sum();
    let right: f64 = (0..classes).map(|class| confusion[class][class]).sum();
    let expected = |class: usize| confusion[class].iter().sum::<f64>();
    let predicted = |class: usize| confusion.iter().map(|row| row[class]).sum::<f64>();
    let f1 = |class: usize| ratio(2.0 * confusion[class][class], expected(class) + predicted(class));
    match metric {
        Metric::Accuracy => ratio(right, total),
        Metric::F1 if classes > 1 => f1(1),
        Metric::MacroF1 => {
            // as scikit-learn: classes that are neither expected nor predicted do not count
            let present: Vec<usize> =
                (0..classes).filter(|class| expected(*class) + predicted(*class) > 0.0).collect();
            ratio(present.iter().map(|class| f1(*class)).sum(), present.len() as f64)
        }
        Metric::Matthews => {
            // Gorodkin's form for any number of classes
            let sum = |f: &dyn Fn(usize) -> f64| (0..classes).map(f).sum::<f64>();
            let covariance = right * total - sum(&|class| expected(class) * predicted(class));
            let spread = |count: &dyn Fn(usize) -> f64| total * total - sum(&|class| count(class).powi(2));
            ratio(covariance, (spread(&expected) * spread(&predicted)).sqrt())
        }
        _ => 0.0,
    }
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let count = a.len().max(1) as f64;
    let (mean_a, mean_b) = (a.iter().sum::<f64>() / count, b.iter().sum::<f64>() / count);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x - mean_a, y - mean_b);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    ratio(ab, (aa * bb).sqrt())
}

/// Ranks from 1, ties averaged.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    for group in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let first = order.iter().position(|row| *row == group[0]).unwrap_or(0);
        for row in group {
            ranks[*row] = first as f64 + (group.len() as f64 + 1.0) / 2.0;
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    #[test]
    fn classes_are_scored_as_scikit_learn_does() {
        // confusion [[2, 1], [1, 4]]
        let predictions = Predictions::Classes {
            expected: vec![0, 0, 0, 1, 1, 1, 1, 1],
            predicted: vec![0, 0, 1, 0, 1, 1, 1, 1],
            classes: 2,
        };
        close(score(Metric::Accuracy, &predictions).value, 0.75);
        close(score(Metric::F1, &predictions).value, 0.8);
        close(score(Metric::MacroF1, &predictions).value, (0.8 + 2.0 / 3.0) / 2.0);
        // (2*4 - 1*1) / sqrt(3*3*5*5)
        close(score(Metric::Matthews, &predictions).value, 7.0 / 15.0);
        close(score(Metric::Accuracy, &predictions).standard_error.unwrap(), (0.1875f64 / 7.0).sqrt());
        let constant = Predictions::Classes { expected: vec![0, 1], predicted: vec![1, 1], classes: 2 };
        close(score(Metric::Matthews, &constant).value, 0.0);
    }

    #[test]
    fn correlations_are_scipys() {
        let predictions =
            Predictions::Values { predicted: vec![1.0, 2.0, 3.0, 4.0], expected: vec![1.0, 3.0, 2.0, 5.0] };
        // pearson: 5.5 / sqrt(5 * 8.75); spearman: 1 - 6*2/(4*15)
        close(score(Metric::Pearson, &predictions).value, 5.5 / 43.75f64.sqrt());
        close(score(Metric::Spearman, &predictions).value, 0.8);
        close(score(Metric::Mse, &predictions).value, 0.75);
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        let constant = Predictions::Values { predicted: vec![1.0, 1.0], expected: vec![0.0, 1.0] };
        close(score(Metric::Pearson, &constant).value, 0.0);
    }

    #[test]
    fn perplexity_weighs_texts_by_their_tokens() {
        let predictions = Predictions::Tokens { sum_loss: vec![2.0, 4.0], tokens: vec![1, 5] };
        close(score(Metric::Loss, &predictions).value, 1.0);
        close(score(Metric::Perplexity, &predictions).value, std::f64::consts::E);
    }

    #[test]
    fn the_bootstrap_finds_the_error_of_a_mean() {
        // independent values with deviation 1: the error of their mean square error is known
        let count = 400;
        let expected = vec![0.0; count];
        let predicted = (0..count).map(|i| if i % 4 == 0 { 2.0 } else { 0.0 }).collect();
        let error = score(Metric::Mse, &Predictions::Values { predicted, expected }).standard_error.unwrap();
        let exact = (4.0f64 * 4.0 * 0.25 * 0.75 / count as f64).sqrt();
        assert!((error / exact - 1.0).abs() < 0.1, "{error} against {exact}");
    }
}
