//! Tables of methods that are known to be equal, or not.
//!
//! `cargo test` makes a few; all of them are made, and their rates printed, by
//!
//! ```sh
//! cargo test --release -p peftlab-report simulation -- --ignored --nocapture
//! ```

use std::thread;

use peftlab_metrics::{Metric, Predictions, value};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{ChiSquared, Distribution, StandardNormal};
use statrs::distribution::{ContinuousCDF, Normal};

use super::components::{Column, influences};
use super::simultaneous::Simultaneous;
use super::{Mark, SeedsNeeded, marks};
use crate::stats::mean;

const METRICS: [Metric; 7] = [
    Metric::Accuracy,
    Metric::F1,
    Metric::Pearson,
    Metric::Spearman,
    Metric::Mse,
    Metric::Loss,
    Metric::Perplexity,
];

/// A column of a table.
#[derive(Clone)]
struct Scene {
    metric: Metric,
    methods: usize,
    seeds: usize,
    items: usize,
    /// Deviation of a run through its seed. With one seed it is not: what is told is told of the runs.
    by_seed: f64,
    /// Deviation between methods of the logarithm of that.
    unlike: f64,
    /// By how much the first method's answers are better.
    ahead: f64,
}

impl Scene {
    fn equal(metric: Metric, methods: usize, seeds: usize) -> Self {
        let by_seed = match (seeds, metric) {
            (1, _) => 0.0,
            (_, Metric::Loss | Metric::Perplexity) => 0.05,
            _ => 0.15,
        };
        Self { metric, methods, seeds, items: 200, by_seed, unlike: 0.0, ahead: 0.0 }
    }

    /// Losses of one token a text: their means are exactly normal, and their variance is known.
    fn normal(methods: usize, seeds: usize, by_seed: f64) -> Self {
        Self { by_seed, ..Self::equal(Metric::Loss, methods, seeds) }
    }

    /// The standard error of the difference of two methods' mean losses.
    fn standard_error(&self) -> f64 {
        let (seeds, items) = (self.seeds as f64, self.items as f64);
        let through_items = (BY_METHOD * BY_METHOD + BY_RUN * BY_RUN / seeds) / items;
        (2.0 * (self.by_seed * self.by_seed / seeds + through_items)).sqrt()
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> Vec<Vec<Predictions>> {
        let mut normals = |count: usize| normals(rng, count);
        let (hard, expected) = (normals(self.items), normals(self.items));
        let method = |i: usize| {
            let own = normals(self.items);
            let by_seed = self.by_seed * (self.unlike * normals(1)[0]).exp();
            let ahead = if i == 0 { self.ahead } else { 0.0 };
            let run = |_| {
                let (seed, residual) = (by_seed * normals(1)[0], normals(self.items));
                let errors: Vec<f64> = (0..self.items)
                    .map(|i| 0.5 * hard[i] + BY_METHOD * own[i] + BY_RUN * residual[i])
                    .collect();
                self.answers(&expected, &errors, seed, ahead)
            };
            (0..self.seeds).map(run).collect()
        };
        (0..self.methods).map(method).collect()
    }

    fn answers(&self, expected: &[f64], errors: &[f64], seed: f64, ahead: f64) -> Predictions {
        match self.metric {
            Metric::Accuracy | Metric::F1 | Metric::MacroF1 | Metric::Matthews => {
                let expected: Vec<usize> = expected.iter().map(|value| usize::from(*value > 0.25)).collect();
                let right = errors.iter().map(|error| 0.6 + ahead + seed + error > 0.0);
                let predicted = expected.iter().zip(right).map(|(e, right)| if right { *e } else { 1 - e });
                Predictions::Classes { predicted: predicted.collect(), expected, classes: 2 }
            }
            Metric::Pearson | Metric::Spearman | Metric::Mse => {
                let predicted =
                    expected.iter().zip(errors).map(|(e, error)| e + error * (seed - ahead).exp());
                Predictions::Values { predicted: predicted.collect(), expected: expected.to_vec() }
            }
            Metric::Loss | Metric::Perplexity => {
                // texts of unequal lengths where their loss is a ratio
                let tokens: Vec<usize> = expected
                    .iter()
                    .map(
                        |value| {
                            if self.metric == Metric::Loss { 1 } else { 5 + (10.0 * value.abs()) as usize }
                        },
                    )
                    .collect();
                let sum_loss = errors
                    .iter()
                    .zip(&tokens)
                    .map(|(error, count)| *count as f64 * (2.0 + error + seed - ahead))
                    .collect();
                Predictions::Tokens { sum_loss, tokens }
            }
        }
    }

    fn column(&self) -> Column {
        let methods = self.draw(&mut ChaCha8Rng::seed_from_u64(0));
        Column::new(&methods.iter().map(|runs| influences(self.metric, runs).unwrap()).collect::<Vec<_>>())
    }

    fn marked(&self, table: u64) -> Vec<Mark> {
        let mut rng = ChaCha8Rng::seed_from_u64(table);
        let methods = self.draw(&mut rng);
        let mean = |runs: &Vec<Predictions>| {
            Some(mean(&runs.iter().map(|run| value(self.metric, run)).collect::<Vec<_>>()))
        };
        let means: Vec<Option<f64>> = methods.iter().map(mean).collect();
        marks(
            Some(self.metric),
            self.metric.higher_is_better(),
            &means,
            &methods.iter().map(|runs| Some(runs.as_slice())).collect::<Vec<_>>(),
        )
        .marks
    }
}

/// Deviation of an item's answer through the method, and through the run.
const BY_METHOD: f64 = 0.4;
const BY_RUN: f64 = 0.4;

fn normals(rng: &mut ChaCha8Rng, count: usize) -> Vec<f64> {
    (0..count).map(|_| StandardNormal.sample(rng)).collect()
}

fn is_different(mark: &Mark) -> bool {
    matches!(mark, Mark::Different(_))
}

/// How many of the tables from 0 to `tables` `holds` of, on all processors.
fn count(tables: u64, holds: impl Fn(u64) -> bool + Sync) -> u64 {
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let holds = &holds;
    thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                scope.spawn(move || (part..tables).step_by(threads as usize).filter(|i| holds(*i)).count())
            })
            .collect();
        parts.into_iter().map(|part| part.join().unwrap() as u64).sum()
    })
}

/// Of so many tables with a rate of 5 % more than this are in one of a thousand simulations.
fn bound(tables: u64) -> u64 {
    let expected = 0.05 * tables as f64;
    (expected + 3.1 * (expected * 0.95).sqrt()).ceil() as u64
}

fn false_marks(methods: usize, seeds: usize, tables: u64) -> u64 {
    count(tables, |table| {
        let metric = METRICS[table as usize % METRICS.len()];
        Scene::equal(metric, methods, seeds).marked(table).iter().any(is_different)
    })
}

fn found(methods: usize, seeds: usize, by_seed: f64, tables: u64) -> u64 {
    let mut scene = Scene::normal(methods, seeds, by_seed);
    scene.ahead = 2.0 * scene.standard_error();
    count(tables, |table| scene.marked(table).iter().enumerate().any(|(i, mark)| i > 0 && is_different(mark)))
}

/// The share of columns in which two methods are told apart that differ by two standard errors, as the theory has it:
/// means and sample variances are drawn as normal errors make them, without items or runs, and the probability that the
/// difference leaves the interval is the normal one.
fn stated(scene: &Scene, columns: u64) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (seeds, items) = (scene.seeds as f64, scene.items as f64);
    let residual = if scene.seeds > 1 { BY_RUN * BY_RUN / items } else { 0.0 };
    let by_item = (BY_METHOD * BY_METHOD + BY_RUN * BY_RUN / seeds) / items;
    let normal = Normal::new(0.0, 1.0).unwrap();
    let powers = (0..columns).map(|_| {
        let mut over_seeds = || match ChiSquared::new(seeds - 1.0) {
            Ok(chi_square) => {
                (scene.by_seed.powi(2) + residual) * chi_square.sample(&mut rng) / (seeds - 1.0)
            }
            Err(_) => 0.0,
        };
        let column = Column {
            means: vec![0.0; 2],
            seeds: vec![scene.seeds; 2],
            over_seeds: vec![over_seeds(), over_seeds()],
            residual: vec![residual; 2],
            items: vec![by_item, 0.0, 0.0, by_item],
            count: scene.items,
        };
        let [_, half] = Simultaneous::new(&column).difference(&column, 0, 1).interval;
        let half = half / scene.standard_error();
        normal.sf(half - 2.0) + normal.cdf(-half - 2.0)
    });
    powers.sum::<f64>() / columns as f64
}

/// How many standard errors lie between a count and what was to be expected.
fn off(count: u64, tables: u64, expected: f64, expected_of: u64) -> f64 {
    let variance = expected * (1.0 - expected) * (1.0 / tables as f64 + 0.25 / expected_of as f64);
    (count as f64 / tables as f64 - expected).abs() / variance.sqrt()
}

#[test]
fn equal_methods_are_seldom_held_apart() {
    for (methods, seeds, tables) in [(2, 1, 140), (2, 3, 140), (10, 3, 70), (26, 5, 21)] {
        let errors = false_marks(methods, seeds, tables);
        assert!(errors <= bound(tables), "{methods} methods, {seeds} seeds: {errors} of {tables}");
    }
}

#[test]
fn two_standard_errors_are_found_at_the_stated_power() {
    for (seeds, by_seed) in [(1, 0.0), (5, 0.1)] {
        let expected = stated(&Scene::normal(2, seeds, by_seed), 100);
        let found = found(2, seeds, by_seed, 150);
        assert!(
            off(found, 150, expected, 100) < 3.3,
            "{seeds} seeds: {found} of 150, and {expected} is stated"
        );
    }
}

#[test]
#[ignore = "takes minutes: cargo test --release -p peftlab-report simulation -- --ignored --nocapture"]
#[allow(clippy::print_stdout, reason = "its rates are what it is run for")]
fn simulation_of_planted_differences() {
    const TABLES: u64 = 2000;
    println!(
        "found, % of {TABLES} tables: two standard errors of the difference between two methods; stated"
    );
    for (seeds, by_seed) in [(1, 0.0), (3, 0.0), (3, 0.02), (3, 0.1), (5, 0.02), (5, 0.1)] {
        let expected = stated(&Scene::normal(2, seeds, by_seed), TABLES);
        let found = found(2, seeds, by_seed, TABLES);
        println!(
            "{seeds} seeds of deviation {by_seed}: {:5.2} {:5.2}",
            found as f64 / 20.0,
            100.0 * expected
        );
        assert!(off(found, TABLES, expected, TABLES) < 3.3, "{found} and {expected}");
    }
    println!("found with as many seeds as a table of 20 seeds says, % of {TABLES} tables (80 % is stated)");
    for (methods, by_seed, ahead) in
        [(2, 0.1, 0.2), (2, 0.1, 0.3), (2, 0.05, 0.15), (10, 0.1, 0.25), (10, 0.05, 0.2)]
    {
        let scene = Scene { ahead, ..Scene::normal(methods, 20, by_seed) };
        let column = scene.column();
        let needed = super::seeds::needed(&column, ahead);
        let SeedsNeeded::Seeds(seeds) = needed else { panic!("{needed:?}") };
        let scene = Scene { seeds, ..scene };
        let found = count(TABLES, |table| is_different(&scene.marked(table)[1]));
        println!(
            "{methods:3} methods, deviation {by_seed}, {ahead} ahead: {seeds} seeds {:5.2}",
            found as f64 / 20.0
        );
    }
}

#[test]
#[ignore = "takes minutes: cargo test --release -p peftlab-report simulation -- --ignored --nocapture"]
#[allow(clippy::print_stdout, reason = "its rates are what it is run for")]
fn simulation_of_equal_methods() {
    const TABLES: u64 = 2000;
    println!("false marks, % of {TABLES} tables of equal methods; columns: 1, 3, 5 seeds");
    let percent = |count: u64| 100.0 * count as f64 / TABLES as f64;
    let mut worst = 0;
    for methods in [2, 5, 10, 26, 60] {
        let rates = [1, 3, 5].map(|seeds| false_marks(methods, seeds, TABLES));
        println!(
            "{methods:3} methods {:5.2} {:5.2} {:5.2}",
            percent(rates[0]),
            percent(rates[1]),
            percent(rates[2])
        );
        worst = worst.max(*rates.iter().max().unwrap());
    }
    println!("by metric, 5 methods");
    for metric in METRICS {
        let rates = [1, 3, 5].map(|seeds| {
            count(TABLES, |table| Scene::equal(metric, 5, seeds).marked(table).iter().any(is_different))
        });
        println!(
            "{:10} {:5.2} {:5.2} {:5.2}",
            metric.name(),
            percent(rates[0]),
            percent(rates[1]),
            percent(rates[2])
        );
        worst = worst.max(*rates.iter().max().unwrap());
    }
    println!("methods whose seeds scatter unlike (their deviations' logarithms by 0.7), 3 and 5 seeds");
    for methods in [2, 10, 26] {
        let rates = [3, 5].map(|seeds| {
            let scene = Scene { unlike: 0.7, ..Scene::normal(methods, seeds, 0.1) };
            count(TABLES, |table| scene.marked(table).iter().any(is_different))
        });
        println!("{methods:3} methods {:5.2} {:5.2}", percent(rates[0]), percent(rates[1]));
    }
    assert!(worst <= bound(TABLES), "{worst} of {TABLES}");
}
