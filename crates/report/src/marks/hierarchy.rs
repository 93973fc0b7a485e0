//! Variances over seeds, of which a few seeds say little: those of a column's methods are taken as drawn from one
//! distribution, of which all of them tell.

use rand::{Rng, RngExt};
use rand_distr::{ChiSquared, Distribution};
use statrs::function::gamma::ln_gamma;

/// Degrees of freedom of the distribution that the methods' variances are drawn from: 1 where nothing is learned from
/// other methods, infinity where all have the same variance.
const FREEDOM: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, f64::INFINITY];

/// Places of its scale: steps of a fifth of a logarithm, up to six from the mean variance.
const PLACES: i32 = 30;

/// A run's variance over seeds, for each method: Smyth's hierarchical model (2004, *Statistical Applications in
/// Genetics and Molecular Biology* 3:3), as limma has it for the variances of genes. A variance is drawn from a scaled
/// inverse chi-square distribution, and a sample variance of `d` degrees of freedom from it. Smyth estimates that
/// distribution's two parameters from the data; with as few methods as here they stay uncertain, so that they are
/// drawn, too, from their posterior on a grid. It gives weight to unlike variances beforehand (one over the root of the
/// degrees of freedom): fine-tuning with some methods is less stable than with others.
pub(super) struct Hierarchy {
    /// Sums of the posterior's weights, of each degree of freedom and scale.
    cumulative: Vec<f64>,
    scales: Vec<f64>,
    sums: Vec<f64>,
    /// For each of [`FREEDOM`] but the last, the distribution for each method.
    posterior: Vec<Vec<ChiSquared<f64>>>,
}

impl Hierarchy {
    /// Of sample variances, and the seeds that they are of. None where all of them are zero.
    pub(super) fn new(variances: &[f64], seeds: &[usize]) -> Option<Self> {
        let freedom: Vec<f64> = seeds.iter().map(|seeds| *seeds as f64 - 1.0).collect();
        let all: f64 = freedom.iter().sum();
        let pooled =
            variances.iter().zip(&freedom).map(|(variance, freedom)| variance * freedom).sum::<f64>();
        if pooled <= 0.0 || pooled.is_nan() {
            return None;
        }
        let pooled = pooled / all;
        let scales: Vec<f64> =
            (-PLACES..=PLACES).map(|place| pooled * (f64::from(place) / 5.0).exp()).collect();
        // a variance of exactly zero, of scores that are multiples of 1/n, speaks for a small one and no more
        let known: Vec<(f64, f64)> = variances
            .iter()
            .zip(&freedom)
            .filter(|(_, freedom)| **freedom > 0.0)
            .map(|(variance, freedom)| (variance.max(1e-3 * pooled), *freedom))
            .collect();
        let mut logarithms = Vec::new();
        for prior in FREEDOM {
            for scale in &scales {
                let likelihood: f64 = known
                    .iter()
                    .map(|(variance, freedom)| density(*variance / scale, *freedom, prior) - scale.ln())
                    .sum();
                logarithms.push(likelihood - 0.5 * prior.min(128.0).ln());
            }
        }
        let largest = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        let cumulative = logarithms.iter().map(|logarithm| {
            sum += (logarithm - largest).exp();
            sum
        });
        let posterior = FREEDOM[..FREEDOM.len() - 1].iter().map(|prior| {
            freedom.iter().filter_map(|freedom| ChiSquared::new(prior + freedom).ok()).collect()
        });
        Some(Self {
            cumulative: cumulative.collect(),
            scales,
            sums: variances.iter().zip(&freedom).map(|(variance, freedom)| variance * freedom).collect(),
            posterior: posterior.collect(),
        })
    }

    /// Draws each method's variance over seeds.
    pub(super) fn draw(&self, rng: &mut impl Rng, variances: &mut [f64]) {
        let total = self.cumulative.last().copied().unwrap_or(0.0);
        let point = rng.random_range(0.0..1.0) * total;
        let place = self.cumulative.partition_point(|sum| *sum <= point).min(self.cumulative.len() - 1);
        let (prior, scale) = (place / self.scales.len(), self.scales[place % self.scales.len()]);
        match self.posterior.get(prior) {
            None => variances.fill(scale),
            Some(posterior) => {
                for ((variance, sum), chi_square) in variances.iter_mut().zip(&self.sums).zip(posterior) {
                    *variance = (FREEDOM[prior] * scale + sum) / chi_square.sample(rng);
                }
            }
        }
    }
}

/// Logarithm of the density of F with `a` and `b` degrees of freedom at `x`; of a chi-square over `a` where `b` is
/// infinite.
fn density(x: f64, a: f64, b: f64) -> f64 {
    if b.is_infinite() {
        return a / 2.0 * (a / 2.0).ln() - ln_gamma(a / 2.0) + (a / 2.0 - 1.0) * x.ln() - a * x / 2.0;
    }
    ln_gamma((a + b) / 2.0) - ln_gamma(a / 2.0) - ln_gamma(b / 2.0)
        + a / 2.0 * (a / b).ln()
        + (a / 2.0 - 1.0) * x.ln()
        - (a + b) / 2.0 * (a / b * x).ln_1p()
}
