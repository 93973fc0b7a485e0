//! Metrics of predictions, and their errors from the finite number of items.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is computed from predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Share of right classes.
    Accuracy,
    /// F1 of class 1, of two.
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
    /// The value; NaN where it is undefined (see [`value_at`]).
    pub value: f64,
    /// Error from the finite number of items, of two or more: for accuracy and mean squared error, which are means over
    /// items, the sample deviation over the root of n, as lm-evaluation-harness and scipy's `sem` have it; for all else
    /// the deviation over bootstrap draws of the items, of which those are left out where the metric is undefined. None
    /// where the value is.
    pub standard_error: Option<f64>,
}

/// Draws of the bootstrap.
const DRAWS: usize = 1000;

/// The value of `metric` and its standard error.
pub fn score(metric: Metric, predictions: &Predictions) -> Scored {
    let count = predictions.len();
    let all: Vec<usize> = (0..count).collect();
    let value = value_at(metric, predictions, &all);
    if count < 2 || !value.is_finite() {
        return Scored { value, standard_error: None };
    }
    let standard_error = match (metric, predictions) {
        (Metric::Accuracy, _) => Some((value * (1.0 - value) / (count - 1) as f64).sqrt()),
        (Metric::Mse, Predictions::Values { predicted, expected }) => {
            let squares: Vec<f64> = predicted.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).collect();
            deviation(&squares).map(|deviation| deviation / (count as f64).sqrt())
        }
        _ => bootstrap(metric, predictions, count),
    };
    Scored { value, standard_error }
}

/// The sample deviation; none of fewer than two values.
fn deviation(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt())
}

fn bootstrap(metric: Metric, predictions: &Predictions, count: usize) -> Option<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut sample = vec![0; count];
    let draws = (0..DRAWS).map(|_| {
        sample.iter_mut().for_each(|row| *row = rng.random_range(0..count));
        value_at(metric, predictions, &sample)
    });
    deviation(&draws.filter(|value| value.is_finite()).collect::<Vec<_>>())
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
///
/// NaN where it is undefined: of no items, of predictions that are no finite numbers, where a correlation has a constant
/// on one side (as scipy), where no token counts, and for predictions of another kind than the metric's. F1 of a class
/// that is nowhere, and Matthews' correlation where one side has one class, are 0, as in scikit-learn.
pub fn value_at(metric: Metric, predictions: &Predictions, rows: &[usize]) -> f64 {
    match predictions {
        Predictions::Classes { predicted, expected, classes } => {
            let mut counts = vec![Count::default(); *classes];
            for row in rows {
                let (expected, predicted) = (expected[*row], predicted[*row]);
                counts[expected].expected += 1.0;
                counts[predicted].predicted += 1.0;
                counts[expected].right += f64::from(u8::from(expected == predicted));
            }
            of_classes(metric, &counts, rows.len() as f64)
        }
        Predictions::Values { predicted, expected } => {
            let ours: Vec<f64> = rows.iter().map(|row| predicted[*row]).collect();
            let theirs: Vec<f64> = rows.iter().map(|row| expected[*row]).collect();
            match metric {
                Metric::Pearson => pearson(&ours, &theirs),
                Metric::Spearman => match ours.iter().chain(&theirs).any(|value| value.is_nan()) {
                    true => f64::NAN,
                    false => pearson(&ranks(&ours), &ranks(&theirs)),
                },
                Metric::Mse => {
                    let squares = ours.iter().zip(&theirs).map(|(a, b)| (a - b).powi(2));
                    squares.sum::<f64>() / rows.len() as f64
                }
                _ => f64::NAN,
            }
        }
        Predictions::Tokens { sum_loss, tokens } => {
            // as floats, for what a file of predictions says may be of any size; whole numbers add up exactly all the same
            let count: f64 = rows.iter().map(|row| tokens[*row] as f64).sum();
            let loss = rows.iter().map(|row| sum_loss[*row]).sum::<f64>() / count;
            match metric {
                Metric::Perplexity => loss.exp(),
                Metric::Loss => loss,
                _ => f64::NAN,
            }
        }
    }
}

/// How often a class is expected, predicted, and both.
#[derive(Clone, Copy, Default)]
struct Count {
    expected: f64,
    predicted: f64,
    right: f64,
}

impl Count {
    fn f1(&self) -> f64 {
        ratio(2.0 * self.right, self.expected + self.predicted)
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

fn of_classes(metric: Metric, counts: &[Count], total: f64) -> f64 {
    if total == 0.0 {
        return f64::NAN;
    }
    let sum = |of: fn(&Count) -> f64| counts.iter().map(of).sum::<f64>();
    let right = sum(|class| class.right);
    match metric {
        Metric::Accuracy => right / total,
        Metric::F1 => counts.get(1).map_or(f64::NAN, Count::f1),
        Metric::MacroF1 => {
            // as scikit-learn: classes that are neither expected nor predicted do not count
            let present = counts.iter().filter(|class| class.expected + class.predicted > 0.0);
            ratio(present.clone().map(Count::f1).sum(), present.count() as f64)
        }
        Metric::Matthews => {
            // Gorodkin's form for any number of classes
            let covariance = right * total - sum(|class| class.expected * class.predicted);
            let spread = |squares: f64| total * total - squares;
            let (expected, predicted) =
                (spread(sum(|class| class.expected.powi(2))), spread(sum(|class| class.predicted.powi(2))));
            ratio(covariance, (expected * predicted).sqrt())
        }
        _ => f64::NAN,
    }
}

/// Pearson's correlation; NaN where one side is constant or no number, as in scipy.
fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let constant = |values: &[f64]| values.iter().all(|value| *value == values[0]);
    if a.len() < 2 || constant(a) || constant(b) {
        return f64::NAN;
    }
    let (a, b) = (centred(a), centred(b));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    (product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()).clamp(-1.0, 1.0)
}

/// Differences from the mean, over the largest of them: their squares can neither overflow nor vanish.
fn centred(values: &[f64]) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let largest = values.iter().fold(0.0f64, |largest, value| largest.max((value - mean).abs()));
    values.iter().map(|value| (value - mean) / largest).collect()
}

/// Ranks from 1, ties averaged.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for group in order.chunk_by(|a, b| values[*a] == values[*b]) {
        for row in group {
            ranks[*row] = before as f64 + (group.len() as f64 + 1.0) / 2.0;
        }
        before += group.len();
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
        let scored = score(Metric::Pearson, &constant);
        assert!(scored.value.is_nan() && scored.standard_error.is_none(), "{scored:?}");
    }

    #[test]
    fn perplexity_weighs_texts_by_their_tokens() {
        let predictions = Predictions::Tokens { sum_loss: vec![2.0, 4.0], tokens: vec![1, 5] };
        close(score(Metric::Loss, &predictions).value, 1.0);
        close(score(Metric::Perplexity, &predictions).value, std::f64::consts::E);
    }

    #[test]
    fn the_error_of_a_mean_is_the_deviation_over_the_root_of_the_items() {
        // square errors 4 and 0
        let predictions = Predictions::Values { predicted: vec![2.0, 0.0], expected: vec![0.0, 0.0] };
        close(score(Metric::Mse, &predictions).standard_error.unwrap(), 8f64.sqrt() / 2f64.sqrt());
    }

    #[test]
    fn the_bootstrap_finds_the_error_of_a_mean() {
        // texts of one token each: their loss is a mean, of which the error is known
        let count = 400;
        let sum_loss: Vec<f64> = (0..count).map(|i| if i % 4 == 0 { 4.0 } else { 0.0 }).collect();
        let predictions = Predictions::Tokens { sum_loss, tokens: vec![1; count] };
        let error = score(Metric::Loss, &predictions).standard_error.unwrap();
        let exact = (4.0f64 * 4.0 * 0.25 * 0.75 / count as f64).sqrt();
        assert!((error / exact - 1.0).abs() < 0.1, "{error} against {exact}");
    }

    #[test]
    fn what_is_undefined_is_no_number() {
        let undefined = |metric, predictions: &Predictions| {
            let scored = score(metric, predictions);
            assert!(!scored.value.is_finite() && scored.standard_error.is_none(), "{metric:?}: {scored:?}");
        };
        let nothing = Predictions::Classes { predicted: vec![], expected: vec![], classes: 2 };
        let silent = Predictions::Tokens { sum_loss: vec![0.0, 0.0], tokens: vec![0, 0] };
        let nan = Predictions::Values { predicted: vec![f64::NAN, 1.0, 2.0], expected: vec![1.0, 2.0, 3.0] };
        for metric in [Metric::Accuracy, Metric::F1, Metric::MacroF1, Metric::Matthews] {
            undefined(metric, &nothing);
            undefined(metric, &silent);
        }
        undefined(Metric::Perplexity, &silent);
        undefined(Metric::Loss, &silent);
        [Metric::Pearson, Metric::Spearman, Metric::Mse, Metric::Accuracy]
            .into_iter()
            .for_each(|metric| undefined(metric, &nan));
    }
}
