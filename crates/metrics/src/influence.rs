//! What each item does to a score: the empirical influence function, by which a score's error from the finite number
//! of items is a sum over items, and a resample of the items is a reweighting of them.

use crate::{Metric, Predictions, value};

/// A score with what each item does to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Influence {
    /// The score.
    pub value: f64,
    /// The influence of each item.
    pub items: Vec<f64>,
}

/// The score of `metric`, and the empirical influence of each item on it: `n` times the derivative of the score with respect to the item's
/// weight, where the weights of the `n` items sum to one (the infinitesimal jackknife: Efron 1982, *The Jackknife, the
/// Bootstrap and Other Resampling Plans*, chapter 6). They sum to zero, and the score of items reweighted by `w` is, to
/// first order, the score plus the mean of `w` times the influence. For a mean over items it is the item's own value
/// less the mean, and nothing is approximated.
///
/// Ranks are made once, in O(n log n); the influence on Spearman's correlation holds what an item does to the ranks of
/// the others, ties averaged.
///
/// None where the metric is undefined (see [`value`]). An item has no influence on a score that stays what it is by
/// convention: F1 of a class that is nowhere, Matthews' correlation where one side has one class.
pub fn influence(metric: Metric, predictions: &Predictions) -> Option<Influence> {
    let score = value(metric, predictions);
    if !score.is_finite() {
        return None;
    }
    let items = match predictions {
        Predictions::Classes { predicted, expected, classes } => {
            let shares = Shares::new(predicted, expected, *classes);
            let of_item: Box<dyn Fn(usize, usize) -> f64> = match metric {
                Metric::F1 => Box::new(move |p, e| shares.f1(1, p, e)),
                Metric::MacroF1 => Box::new(move |p, e| shares.macro_f1(p, e)),
                Metric::Matthews => Box::new(move |p, e| shares.matthews(score, p, e)),
                _ => Box::new(move |p, e| f64::from(u8::from(p == e)) - score),
            };
            predicted.iter().zip(expected).map(|(p, e)| of_item(*p, *e)).collect()
        }
        Predictions::Values { predicted, expected } => match metric {
            Metric::Mse => predicted.iter().zip(expected).map(|(a, b)| (a - b).powi(2) - score).collect(),
            Metric::Spearman => spearman(score, predicted, expected),
            _ => pearson(score, predicted, expected),
        },
        Predictions::Tokens { sum_loss, tokens } => {
            let all: f64 = tokens.iter().map(|count| *count as f64).sum();
            let mean = sum_loss.iter().sum::<f64>() / all;
            let factor = if metric == Metric::Perplexity { score } else { 1.0 } * tokens.len() as f64 / all;
            sum_loss.iter().zip(tokens).map(|(loss, count)| factor * (loss - mean * *count as f64)).collect()
        }
    };
    Some(Influence { value: score, items })
}

/// Shares of the items, by class.
struct Shares {
    predicted: Vec<f64>,
    expected: Vec<f64>,
    right: Vec<f64>,
}

impl Shares {
    fn new(predicted: &[usize], expected: &[usize], classes: usize) -> Self {
        let share = 1.0 / predicted.len() as f64;
        let mut shares =
            Self { predicted: vec![0.0; classes], expected: vec![0.0; classes], right: vec![0.0; classes] };
        for (p, e) in predicted.iter().zip(expected) {
            shares.predicted[*p] += share;
            shares.expected[*e] += share;
            shares.right[*p] += if p == e { share } else { 0.0 };
        }
        shares
    }

    /// On F1 of `class` of an item of class `e` that is taken for `p`.
    fn f1(&self, class: usize, p: usize, e: usize) -> f64 {
        let all = self.predicted[class] + self.expected[class];
        if all == 0.0 {
            return 0.0;
        }
        let f1 = 2.0 * self.right[class] / all;
        let is = |holds: bool| f64::from(u8::from(holds));
        (2.0 * is(p == class && e == class) - f1 * (is(p == class) + is(e == class))) / all
    }

    fn macro_f1(&self, p: usize, e: usize) -> f64 {
        let present = self.predicted.iter().zip(&self.expected).filter(|(p, e)| *p + *e > 0.0).count();
        // of the other classes' F1 an item changes nothing
        let own = if p == e { self.f1(p, p, e) } else { self.f1(p, p, e) + self.f1(e, p, e) };
        own / present as f64
    }

    fn matthews(&self, score: f64, p: usize, e: usize) -> f64 {
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (both, predicted, expected) = (
            product(&self.predicted, &self.expected),
            product(&self.predicted, &self.predicted),
            product(&self.expected, &self.expected),
        );
        let spread = (1.0 - predicted, 1.0 - expected);
        if spread.0 <= 0.0 || spread.1 <= 0.0 {
            return 0.0;
        }
        let right = f64::from(u8::from(p == e)) - self.right.iter().sum::<f64>();
        let covariance = right - (self.predicted[e] + self.expected[p] - 2.0 * both);
        let predicted = -2.0 * (self.predicted[p] - predicted) / spread.0;
        let expected = -2.0 * (self.expected[e] - expected) / spread.1;
        covariance / (spread.0 * spread.1).sqrt() - score / 2.0 * (predicted + expected)
    }
}

/// Devlin, Gnanadesikan & Kettenring 1975: the product of the standard scores, less r times their mean square.
fn pearson(score: f64, a: &[f64], b: &[f64]) -> Vec<f64> {
    let standardised = |values: &[f64]| {
        let centred = crate::centred(values);
        let root = (centred.iter().map(|value| value * value).sum::<f64>() / centred.len() as f64).sqrt();
        centred.into_iter().map(|value| value / root).collect::<Vec<_>>()
    };
    let (a, b) = (standardised(a), standardised(b));
    a.iter().zip(&b).map(|(a, b)| a * b - score * (a * a + b * b) / 2.0).collect()
}

/// Spearman's correlation is Pearson's of the mid-ranks R and Q as shares of the items, whose means are a half. Each
/// of its moments E\[RQ\], E\[R²\], E\[Q²\] is of third degree in the items' weights: a factor for the item itself, and two
/// for those that it is ranked among.
fn spearman(score: f64, a: &[f64], b: &[f64]) -> Vec<f64> {
    let (a, b) = (Ranked::new(a), Ranked::new(b));
    let mean = |f: &dyn Fn(usize) -> f64| (0..a.rank.len()).map(f).sum::<f64>() / a.rank.len() as f64;
    let (product, square_a, square_b) =
        (mean(&|i| a.rank[i] * b.rank[i]), mean(&|i| a.rank[i].powi(2)), mean(&|i| b.rank[i].powi(2)));
    let (spread_a, spread_b) = (square_a - 0.25, square_b - 0.25);
    let (a_of_b, b_of_a, a_of_a, b_of_b) =
        (a.above(&b.rank), b.above(&a.rank), a.above(&a.rank), b.above(&b.rank));
    let of_item = |i: usize| {
        let covariance = a.rank[i] * b.rank[i] + a_of_b[i] + b_of_a[i] - 3.0 * product;
        let of_a = a.rank[i].powi(2) + 2.0 * a_of_a[i] - 3.0 * square_a;
        let of_b = b.rank[i].powi(2) + 2.0 * b_of_b[i] - 3.0 * square_b;
        covariance / (spread_a * spread_b).sqrt() - score / 2.0 * (of_a / spread_a + of_b / spread_b)
    };
    (0..a.rank.len()).map(of_item).collect()
}

/// Items in the order of their values.
struct Ranked {
    /// From the least to the greatest.
    order: Vec<usize>,
    /// How many of `order` lie together because they are equal.
    groups: Vec<usize>,
    /// The share of the items below, those that are equal counted half.
    rank: Vec<f64>,
}

impl Ranked {
    fn new(values: &[f64]) -> Self {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
        let groups: Vec<usize> =
            order.chunk_by(|a, b| values[*a] == values[*b]).map(<[usize]>::len).collect();
        let mut ranked = Self { order, groups, rank: Vec::new() };
        // what is not above, nor half of what is equal
        ranked.rank = ranked.above(&vec![1.0; values.len()]).into_iter().map(|above| 1.0 - above).collect();
        ranked
    }

    /// For each item, the mean over all of `what` of those above it, and half of what is equal to it.
    fn above(&self, what: &[f64]) -> Vec<f64> {
        let mut means = vec![0.0; what.len()];
        let (mut above, mut end) = (0.0, self.order.len());
        for count in self.groups.iter().rev() {
            let group = &self.order[end - count..end];
            let own: f64 = group.iter().map(|item| what[*item]).sum();
            group.iter().for_each(|item| means[*item] = (above + own / 2.0) / what.len() as f64);
            above += own;
            end -= count;
        }
        means
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The items with the item `i` once more.
    fn twice(predictions: &Predictions, i: usize) -> Predictions {
        fn more<T: Copy>(values: &[T], i: usize, times: usize) -> Vec<T> {
            // every item `times` times and the i-th once more: a small weight
            let mut out: Vec<T> = values.iter().flat_map(|value| vec![*value; times]).collect();
            out.push(values[i]);
            out
        }
        const TIMES: usize = 50;
        match predictions {
            Predictions::Classes { predicted, expected, classes } => Predictions::Classes {
                predicted: more(predicted, i, TIMES),
                expected: more(expected, i, TIMES),
                classes: *classes,
            },
            Predictions::Values { predicted, expected } => Predictions::Values {
                predicted: more(predicted, i, TIMES),
                expected: more(expected, i, TIMES),
            },
            Predictions::Tokens { sum_loss, tokens } => {
                Predictions::Tokens { sum_loss: more(sum_loss, i, TIMES), tokens: more(tokens, i, TIMES) }
            }
        }
    }

    fn made() -> [(Predictions, Vec<Metric>); 3] {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let expected: Vec<usize> = (0..40).map(|_| rng.random_range(0..3)).collect();
        let predicted =
            expected.iter().map(|e| if rng.random_bool(0.6) { *e } else { rng.random_range(0..3) });
        let classes = Predictions::Classes { predicted: predicted.collect(), expected, classes: 4 };
        // halves, so that there are ties
        let expected: Vec<f64> = (0..40).map(|_| f64::from(rng.random_range(0..20u8)) / 2.0).collect();
        let predicted = expected.iter().map(|e| (e + f64::from(rng.random_range(0..9u8))).round()).collect();
        let values = Predictions::Values { predicted, expected };
        let tokens: Vec<usize> = (0..40).map(|_| rng.random_range(1..30)).collect();
        let sum_loss = tokens.iter().map(|count| *count as f64 * rng.random_range(0.5..3.0)).collect();
        let tokens = Predictions::Tokens { sum_loss, tokens };
        [
            (classes, vec![Metric::Accuracy, Metric::F1, Metric::MacroF1, Metric::Matthews]),
            (values, vec![Metric::Mse, Metric::Pearson, Metric::Spearman]),
            (tokens, vec![Metric::Loss, Metric::Perplexity]),
        ]
    }

    #[test]
    fn it_is_what_a_little_more_weight_does() {
        for (predictions, metrics) in made() {
            for metric in metrics {
                let influence = influence(metric, &predictions).unwrap().items;
                let largest = influence.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
                assert!(influence.iter().sum::<f64>().abs() < 1e-9 * largest * 40.0, "{metric:?}");
                for (i, ours) in influence.iter().enumerate() {
                    let more = twice(&predictions, i);
                    // the weight of one item rose from 1/n, and that of all others fell, by 1/(50 n + 1)
                    let change = (value(metric, &more) - value(metric, &predictions)) * more.len() as f64;
                    assert!((change - ours).abs() < 0.01 * largest, "{metric:?} {i}: {ours} and {change}");
                }
            }
        }
    }

    #[test]
    fn what_is_undefined_has_none_and_what_is_by_convention_has_no_influence() {
        let constant = Predictions::Values { predicted: vec![1.0, 1.0, 1.0], expected: vec![0.0, 1.0, 2.0] };
        assert_eq!(influence(Metric::Pearson, &constant), None);
        assert_eq!(influence(Metric::Spearman, &constant), None);
        assert_eq!(influence(Metric::Accuracy, &constant), None);
        let one = Predictions::Classes { predicted: vec![0, 0, 0], expected: vec![0, 2, 0], classes: 3 };
        assert_eq!(influence(Metric::Matthews, &one), Some(Influence { value: 0.0, items: vec![0.0; 3] }));
        assert_eq!(influence(Metric::F1, &one).unwrap().items, [0.0; 3]);
    }
}
