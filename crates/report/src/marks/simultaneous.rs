//! All differences of a column's methods at once.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{ChiSquared, Distribution, StandardNormal};

use super::LEVEL;
use super::components::Column;
use super::hierarchy::Hierarchy;

/// Draws of the errors of all means. The test looks at one number of each, the largest difference, so that they need not
/// be more for more methods: a level of 5 % is met to 0.3 % (one standard error), which is allowed for.
const DRAWS: usize = 5000;

/// How far the means of equal methods come apart.
pub(super) struct Simultaneous {
    /// The largest standardised difference of two means in each draw, in order.
    largest: Vec<f64>,
    /// Of each mean, its error's variance through the seeds.
    seeds: Vec<f64>,
}

/// A difference of two means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Difference {
    /// The difference.
    pub(crate) estimate: f64,
    /// Its standard error, over seeds and items.
    pub(crate) standard_error: f64,
    /// Its interval of 95 %, together with all other differences of the column.
    pub(crate) interval: [f64; 2],
    /// p-value that there is none, together with all other differences of the column.
    pub(crate) p: f64,
}

impl Difference {
    /// Whether the two are told apart.
    pub(crate) fn told(&self) -> bool {
        self.p < LEVEL
    }
}

impl Simultaneous {
    pub(super) fn new(column: &Column) -> Self {
        let methods = column.len();
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut errors = vec![0.0; DRAWS * methods];
        let seeds = seed_errors(column, &mut errors, &mut rng);
        item_errors(column, &mut errors, &mut rng);
        // one over the standard error of each pair
        let mut scales = Vec::with_capacity(methods * methods.saturating_sub(1) / 2);
        for i in 0..methods {
            for j in 0..i {
                let variance = seeds[i] + seeds[j] + column.item_variance(i, j);
                scales.push(if variance > 0.0 { 1.0 / variance.sqrt() } else { 0.0 });
            }
        }
        let mut largest: Vec<f64> = errors.chunks(methods).map(|errors| largest(errors, &scales)).collect();
        largest.sort_by(f64::total_cmp);
        Self { largest, seeds }
    }

    /// The number of standard errors that a difference must exceed.
    pub(super) fn critical(&self) -> f64 {
        let share = 1.0 - LEVEL + (LEVEL * (1.0 - LEVEL) / DRAWS as f64).sqrt();
        let place = (self.largest.len() as f64 * share).ceil() as usize;
        self.largest[place.min(self.largest.len() - 1)]
    }

    /// The mean of `i` less that of `j`.
    pub(super) fn difference(&self, column: &Column, i: usize, j: usize) -> Difference {
        let estimate = column.means[i] - column.means[j];
        let standard_error = (self.seeds[i] + self.seeds[j] + column.item_variance(i, j)).sqrt();
        let interval = {
            let half = self.critical() * standard_error;
            [estimate - half, estimate + half]
        };
        if standard_error == 0.0 {
            // there is no test without an error
            return Difference { estimate, standard_error, interval, p: 1.0 };
        }
        let size = estimate.abs() / standard_error;
        let beyond = self.largest.len() - self.largest.partition_point(|largest| *largest < size);
        // the data are a draw, too: a p-value is never zero. And one standard error of the draws, as in the critical value
        let p = (beyond + 1) as f64 / (self.largest.len() + 1) as f64;
        let p = (p + (p * (1.0 - p) / DRAWS as f64).sqrt()).min(1.0);
        Difference { estimate, standard_error, interval, p }
    }
}

/// Adds to each draw the errors of the means through their seeds, and returns their variances: of errors with heavy tails
/// (few seeds) that of normal ones of the same mean size, for a variance they may have none.
fn seed_errors(column: &Column, errors: &mut [f64], rng: &mut ChaCha8Rng) -> Vec<f64> {
    let methods = column.len();
    let mut sizes = vec![0.0; methods];
    if let Some(hierarchy) = Hierarchy::new(&column.over_seeds, &column.seeds) {
        let mut variances = vec![0.0; methods];
        for draw in errors.chunks_mut(methods) {
            hierarchy.draw(rng, &mut variances);
            for (i, error) in draw.iter_mut().enumerate() {
                // what seeds and items have together is an error through the items already
                let variance = (variances[i] - column.residual[i]).max(0.0) / column.seeds[i] as f64;
                let normal: f64 = StandardNormal.sample(rng);
                let own = variance.sqrt() * normal;
                *error += own;
                sizes[i] += own.abs() / DRAWS as f64;
            }
        }
    }
    sizes.into_iter().map(|size| size * size * std::f64::consts::FRAC_PI_2).collect()
}

/// Adds to each draw the errors of the means through the items: normal, with the covariance that was measured, of as
/// many degrees of freedom as there are items less one.
fn item_errors(column: &Column, errors: &mut [f64], rng: &mut ChaCha8Rng) {
    let (methods, freedom) = (column.len(), (column.count - 1) as f64);
    let root = cholesky(&column.items, methods);
    let Ok(chi_square) = ChiSquared::new(freedom) else { return };
    let mut normals = vec![0.0; methods];
    for draw in errors.chunks_mut(methods) {
        normals.iter_mut().for_each(|normal| *normal = StandardNormal.sample(rng));
        let stretch = (freedom / chi_square.sample(rng)).sqrt();
        for (i, error) in draw.iter_mut().enumerate() {
            let row = &root[i * methods..=i * methods + i];
            *error += stretch * row.iter().zip(&normals).map(|(a, b)| a * b).sum::<f64>();
        }
    }
}

/// The lower triangle L of a positive semidefinite matrix LLᵀ; methods of equal answers make it singular.
fn cholesky(matrix: &[f64], size: usize) -> Vec<f64> {
    let mut root = vec![0.0; size * size];
    for j in 0..size {
        let inner =
            |root: &[f64], i: usize| (0..j).map(|k| root[i * size + k] * root[j * size + k]).sum::<f64>();
        let pivot = matrix[j * size + j] - inner(&root, j);
        if pivot <= 1e-12 * matrix[j * size + j] {
            continue;
        }
        let pivot = pivot.sqrt();
        for i in j..size {
            root[i * size + j] = (matrix[i * size + j] - inner(&root, i)) / pivot;
        }
    }
    root
}

/// The largest difference of two of `errors`, each over the standard error of its pair.
fn largest(errors: &[f64], scales: &[f64]) -> f64 {
    let mut largest: f64 = 0.0;
    let mut scales = scales;
    for (i, error) in errors.iter().enumerate() {
        let (own, rest) = scales.split_at(i);
        scales = rest;
        for (other, scale) in errors[..i].iter().zip(own) {
            largest = largest.max((error - other).abs() * scale);
        }
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_singular_matrix_has_a_root() {
        let matrix = [4.0, 4.0, 2.0, 4.0, 4.0, 2.0, 2.0, 2.0, 2.0];
        let root = cholesky(&matrix, 3);
        for i in 0..3 {
            for j in 0..3 {
                let product: f64 = (0..3).map(|k| root[i * 3 + k] * root[j * 3 + k]).sum();
                assert!((product - matrix[i * 3 + j]).abs() < 1e-12, "{root:?}");
            }
        }
    }

    #[test]
    fn the_largest_is_over_all_pairs() {
        // pairs 10, 20, 21
        assert_eq!(largest(&[1.0, 3.0, -4.0], &[1.0, 2.0, 1.0]), 10.0);
    }
}
