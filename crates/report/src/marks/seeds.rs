//! How many seeds a stated difference needs.

use statrs::distribution::{Continuous, ContinuousCDF, Normal, StudentsT};

use super::LEVEL;
use super::components::Column;
use crate::stats::{mean, median};

/// The probability with which a difference is to be found.
pub(super) const POWER: f64 = 0.8;

/// A larger number of seeds is not looked for.
const MOST: usize = 1000;

/// Seeds that tell a stated difference from the best of the column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum SeedsNeeded {
    /// With so many for each method, it is told in four of five experiments.
    Seeds(usize),
    /// With no number of seeds: the items are too few. The least difference that would be told with any.
    TooFewItems(f64),
    /// With more than so many.
    MoreThan(usize),
    /// Each method has one seed, or all came to the same, so that nothing is known of others.
    Unknown,
}

/// What decides how many seeds a difference between two typical methods of a column needs.
struct Variances {
    /// Of a run's score, over seeds.
    run: f64,
    /// Of a difference of two methods of infinitely many seeds, through the items.
    items: f64,
}

/// How many seeds tell a difference of `difference` between two of a column's methods, at a level of 5 % for the whole
/// column and with a power of 80 %, where their variances are those of the column: over seeds the mean of all, through
/// the items the median of all pairs. With `S` seeds the difference has the variance `items + 2 run / S` and Satterthwaite's
/// degrees of freedom (1946, *Biometrics Bulletin* 2:110), and must exceed the critical value and the quantile of the
/// power together. The critical value is that of the studentised range for normal errors, taken to the degrees of freedom
/// by the level of a single comparison that it amounts to.
pub(super) fn needed(column: &Column, difference: f64) -> SeedsNeeded {
    if !column.over_seeds() || column.len() < 2 || difference <= 0.0 {
        return SeedsNeeded::Unknown;
    }
    let variances = Variances::new(column);
    // seeds that all came to the same say nothing of how others would differ
    if variances.run == 0.0 {
        return SeedsNeeded::Unknown;
    }
    let Ok(normal) = Normal::new(0.0, 1.0) else { return SeedsNeeded::Unknown };
    let range = range_critical(column.len());
    let least = (range + normal.inverse_cdf(POWER)) * variances.items.sqrt();
    if least >= difference {
        return SeedsNeeded::TooFewItems(least);
    }
    let level = normal.sf(range);
    let told = |seeds: usize| {
        let of_seeds = 2.0 * variances.run / seeds as f64;
        let variance = variances.items + of_seeds;
        let freedom = (variance / of_seeds).powi(2) * (column.len() * (seeds - 1)) as f64;
        let quantiles = match StudentsT::new(0.0, 1.0, freedom) {
            Ok(student) if freedom < 1e6 => student.inverse_cdf(1.0 - level) + student.inverse_cdf(POWER),
            _ => range + normal.inverse_cdf(POWER),
        };
        quantiles * variance.sqrt() <= difference
    };
    (2..=MOST).find(|seeds| told(*seeds)).map_or(SeedsNeeded::MoreThan(MOST), SeedsNeeded::Seeds)
}

impl Variances {
    fn new(column: &Column) -> Self {
        let repeated: Vec<f64> = (0..column.len())
            .filter(|i| column.seeds[*i] > 1)
            .map(|i| column.over_seeds[i].max(column.residual[i]))
            .collect();
        let of_mean = |i: usize| column.residual[i] / column.seeds[i] as f64;
        let mut pairs = Vec::new();
        for i in 0..column.len() {
            for j in 0..i {
                pairs.push((column.item_variance(i, j) - of_mean(i) - of_mean(j)).max(0.0));
            }
        }
        Self { run: mean(&repeated), items: median(&pairs) }
    }
}

/// The upper 5 % point of the range of `count` normal values over the root of two: Tukey's critical value of infinitely
/// many degrees of freedom.
pub(super) fn range_critical(count: usize) -> f64 {
    let Ok(normal) = Normal::new(0.0, 1.0) else { return f64::INFINITY };
    // whichever value is the largest, x, all others lie between it and x - range
    let within = |range: f64| {
        const STEP: f64 = 0.05;
        let at = |place: i32| {
            let x = f64::from(place) * STEP;
            normal.pdf(x) * (normal.cdf(x) - normal.cdf(x - range)).powi(count as i32 - 1)
        };
        count as f64 * STEP * (-160..=160).map(at).sum::<f64>()
    };
    let (mut low, mut high) = (0.0, 20.0);
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        if within(middle) < 1.0 - LEVEL { low = middle } else { high = middle }
    }
    high / std::f64::consts::SQRT_2
}
