//! How long steps take, without the ones that warm up.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What one step went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepCount {
    /// Samples in the step's batches.
    pub samples: u64,
    /// Tokens in the step's batches. Padding is not one.
    pub tokens: u64,
}

/// Collects the duration of each step; the first few are set apart.
///
/// A device works behind the program's back: read a number off it (the loss) before the step ends, or the clock
/// shows how fast work is handed over.
#[derive(Clone, Debug)]
pub struct StepClock {
    warmup: usize,
    steps: Vec<(f64, StepCount)>,
}

/// A step that is running.
#[derive(Debug)]
#[must_use = "hand it to `StepClock::end`, or the step is not counted"]
pub struct StepTimer(Instant);

impl StepClock {
    /// A clock whose first `warmup` steps (those that compile and tune kernels) stay out of every statistic.
    #[must_use]
    pub fn new(warmup: usize) -> Self {
        Self { warmup, steps: Vec::new() }
    }

    /// Begins a step.
    pub fn begin(&self) -> StepTimer {
        StepTimer(Instant::now())
    }

    /// Ends a step and returns its seconds.
    #[expect(clippy::needless_pass_by_value, reason = "a step ends once")]
    pub fn end(&mut self, timer: StepTimer, count: StepCount) -> f64 {
        let taken = timer.0.elapsed();
        self.record(taken, count);
        taken.as_secs_f64()
    }

    /// Adds a step that was timed elsewhere.
    pub fn record(&mut self, taken: Duration, count: StepCount) {
        self.steps.push((taken.as_secs_f64(), count));
    }

    /// The seconds of every step in order, warm-up first.
    pub fn seconds(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        self.steps.iter().map(|step| step.0)
    }

    /// The statistics so far. Where there are no steps after the warm-up, the spreads are `None`.
    #[must_use]
    pub fn summary(&self) -> StepSummary {
        let (warmup, steps) = self.steps.split_at(self.warmup.min(self.steps.len()));
        let seconds: Vec<f64> = steps.iter().map(|step| step.0).collect();
        let rate = |of: fn(&StepCount) -> u64| {
            let timed = steps.iter().filter(|step| step.0 > 0.0);
            Spread::of(&timed.map(|step| of(&step.1) as f64 / step.0).collect::<Vec<_>>())
        };
        StepSummary {
            warmup_count: warmup.len(),
            warmup_seconds: total(warmup.iter().map(|step| step.0)),
            count: steps.len(),
            total_seconds: total(seconds.iter().copied()),
            samples: steps.iter().map(|step| step.1.samples).sum(),
            tokens: steps.iter().map(|step| step.1.tokens).sum(),
            seconds: Spread::of(&seconds),
            samples_per_second: rate(|count| count.samples),
            tokens_per_second: rate(|count| count.tokens),
        }
    }
}

/// The sum, zero for nothing: an empty `sum` of floats is -0.0, which is how it would be printed.
fn total(seconds: impl Iterator<Item = f64>) -> f64 {
    seconds.fold(0.0, |sum, one| sum + one)
}

/// Statistics of a [`StepClock`]. All but the first two fields leave the warm-up out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepSummary {
    /// Steps set apart as warm-up.
    pub warmup_count: usize,
    /// Seconds that the warm-up steps took.
    pub warmup_seconds: f64,
    /// Steps counted.
    pub count: usize,
    /// Seconds that they took. `tokens / total_seconds` is the mean throughput.
    pub total_seconds: f64,
    /// Samples in them.
    pub samples: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Seconds a step.
    pub seconds: Option<Spread>,
    /// Samples a second, each step by itself: p10 is that of a slow step.
    pub samples_per_second: Option<Spread>,
    /// Tokens a second, each step by itself: p10 is that of a slow step.
    pub tokens_per_second: Option<Spread>,
}

/// The middle of some values and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The 10th percentile.
    pub p10: f64,
    /// The 50th percentile.
    pub median: f64,
    /// The 90th percentile.
    pub p90: f64,
}

impl Spread {
    /// The spread of `values`; `None` for none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let at = |q| of_sorted(&sorted, q);
        Some(Self { p10: at(10.0)?, median: at(50.0)?, p90: at(90.0)? })
    }
}

/// The `q`-th percentile, `q` from 0 to 100, linearly interpolated: of finite values the same number as
/// numpy's `percentile`.
///
/// `None` for no values or another `q`; NaN if any value is.
#[must_use]
pub fn percentile(values: &[f64], q: f64) -> Option<f64> {
    of_sorted(&sorted(values), q)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn of_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    if !(0.0..=100.0).contains(&q) {
        return None;
    }
    // In the total order NaNs are at the ends, by sign.
    if first.is_nan() || last.is_nan() {
        return Some(f64::NAN);
    }
    let place = q / 100.0 * (sorted.len() - 1) as f64;
    let below = *sorted.get(place.floor() as usize)?;
    let above = *sorted.get(place.ceil() as usize)?;
    let (gap, part) = (above - below, place.fract());
    // From the nearer end, as numpy does: the last bit depends on it.
    Some(if below == above {
        below
    } else if part >= 0.5 {
        above - gap * (1.0 - part)
    } else {
        below + gap * part
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected numbers are numpy 2.4.6's: `np.percentile(values, q)`, printed in full.
    #[test]
    fn percentiles_are_numpys_to_the_last_bit() {
        let check = |values: &[f64], expected: &[(f64, f64)]| {
            for &(q, number) in expected {
                assert_eq!(percentile(values, q), Some(number), "percentile {q} of {values:?}");
            }
        };
        check(
            &[0.31, 0.1, 0.7, 0.2, 0.9, 0.13, 0.5001, 0.33, 0.27, 0.6, 1.7],
            &[
                (0.0, 0.1),
                (10.0, 0.13),
                (25.0, 0.23500000000000001),
                (33.3, 0.2832),
                (50.0, 0.33),
                (87.5, 0.85),
                (90.0, 0.9),
                (99.0, 1.6200000000000003),
                (100.0, 1.7),
            ],
        );
        check(
            &[3.0, 1.0, 2.0, 4.0],
            &[(10.0, 1.3), (33.3, 1.9989999999999999), (50.0, 2.5), (90.0, 3.7), (99.0, 3.9699999999999998)],
        );
        check(
            &[0.1, 0.2, 0.30000000000000004],
            &[
                (10.0, 0.12000000000000001),
                (25.0, 0.15000000000000002),
                (87.5, 0.275),
                (99.0, 0.29800000000000004),
            ],
        );
        check(&[7.5], &[(0.0, 7.5), (50.0, 7.5), (100.0, 7.5)]);
    }

    #[test]
    fn no_number_for_no_question() {
        assert_eq!(percentile(&[], 50.0), None);
        assert_eq!(percentile(&[1.0], 101.0), None);
        assert_eq!(percentile(&[1.0], f64::NAN), None);
        assert!(percentile(&[1.0, f64::NAN, 2.0], 0.0).unwrap().is_nan());
        assert_eq!(percentile(&[1.0, f64::INFINITY, f64::INFINITY], 75.0), Some(f64::INFINITY));
    }

    #[test]
    fn warm_up_stays_out() {
        let mut clock = StepClock::new(2);
        clock.record(Duration::from_secs(100), StepCount { samples: 1, tokens: 1 });
        assert_eq!(clock.summary().seconds, None);
        clock.record(Duration::from_secs(50), StepCount { samples: 1, tokens: 1 });
        assert_eq!(clock.summary().count, 0);
        for (seconds, tokens) in [(1, 10), (2, 10), (4, 80)] {
            clock.record(Duration::from_secs(seconds), StepCount { samples: 4, tokens });
        }
        let summary = clock.summary();
        assert_eq!((summary.warmup_count, summary.warmup_seconds), (2, 150.0));
        assert_eq!((summary.count, summary.total_seconds), (3, 7.0));
        assert_eq!((summary.samples, summary.tokens), (12, 100));
        assert_eq!(summary.seconds, Some(Spread { p10: 1.2, median: 2.0, p90: 3.6 }));
        // Of 10, 5 and 20 tokens a second: not the counts' median over the times' median.
        assert_eq!(summary.tokens_per_second, Some(Spread { p10: 6.0, median: 10.0, p90: 18.0 }));
        assert_eq!(summary.samples_per_second.map(|rate| rate.median), Some(2.0));
        assert_eq!(clock.seconds().collect::<Vec<_>>(), [100.0, 50.0, 1.0, 2.0, 4.0]);
    }

    #[test]
    fn a_step_takes_its_time() {
        let mut clock = StepClock::new(0);
        let step = clock.begin();
        std::thread::sleep(Duration::from_millis(5));
        let seconds = clock.end(step, StepCount::default());
        assert!(seconds >= 0.005);
        assert_eq!(clock.summary().total_seconds, seconds);
    }
}
