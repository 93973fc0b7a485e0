use peftlab_metrics::{Metric, Predictions, value_at};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Draws of the paired bootstrap.
const DRAWS: usize = 2000;

/// The mean; 0 of nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The sample standard deviation; none of fewer than two values.
pub(crate) fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// The median; 0 of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Two-sided p-value that two methods have the same score on the population that the items are drawn from: the
/// share of paired bootstrap samples of the items (Efron & Tibshirani 1993) in which the difference of the means
/// over seeds has the other sign, doubled. A sample in which a score is undefined speaks for neither, and counts
/// against a difference.
pub(crate) fn paired_bootstrap(metric: Metric, a: &[Predictions], b: &[Predictions]) -> f64 {
    let items = a.iter().chain(b).map(Predictions::len).min().unwrap_or(0);
    if items == 0 {
        return 1.0;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut sample = vec![0; items];
    let score = |runs: &[Predictions], sample: &[usize]| {
        mean(&runs.iter().map(|run| value_at(metric, run, sample)).collect::<Vec<_>>())
    };
    let (mut above, mut below) = (0, 0);
    for _ in 0..DRAWS {
        sample.iter_mut().for_each(|row| *row = rng.random_range(0..items));
        let difference = score(a, &sample) - score(b, &sample);
        above += usize::from(difference >= 0.0 || difference.is_nan());
        below += usize::from(difference <= 0.0 || difference.is_nan());
    }
    // one more than was counted: a p-value is never zero
    (2.0 * (above.min(below) + 1) as f64 / (DRAWS + 1) as f64).min(1.0)
}

/// Holm's step-down correction (Holm 1979): adjusted p-values in the order of `p`.
pub(crate) fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest: f64 = 0.0;
    for (rank, i) in order.into_iter().enumerate() {
        largest = largest.max(((p.len() - rank) as f64 * p[i]).min(1.0));
        adjusted[i] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_deviations() {
        assert_eq!(mean(&[1.0, 2.0, 6.0]), 3.0);
        assert_eq!(deviation(&[1.0, 3.0]), Some(2f64.sqrt()));
        assert_eq!(deviation(&[1.0]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn holm_is_the_textbook_example() {
        // 0.01 0.04 0.03 0.005: times 4 3 2 1 in order, made monotone
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        let expected = [0.03, 0.06, 0.06, 0.02];
        assert!(adjusted.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{adjusted:?}");
    }

    #[test]
    fn what_is_undefined_is_no_difference() {
        let run = |predicted: Vec<f64>| {
            vec![Predictions::Values { predicted, expected: (0..20).map(f64::from).collect() }]
        };
        let (good, constant) = (run((0..20).map(f64::from).collect()), run(vec![1.0; 20]));
        assert_eq!(paired_bootstrap(Metric::Pearson, &good, &constant), 1.0);
    }

    #[test]
    fn a_clear_difference_is_told_from_none() {
        let run = |wrong: usize| Predictions::Classes {
            predicted: (0..200).map(|i| usize::from(i % wrong == 0)).collect(),
            expected: vec![0; 200],
            classes: 2,
        };
        let (good, bad) = (vec![run(20)], vec![run(3)]);
        assert!(paired_bootstrap(Metric::Accuracy, &good, &bad) < 0.01);
        assert_eq!(paired_bootstrap(Metric::Accuracy, &good, &good), 1.0);
    }
}
