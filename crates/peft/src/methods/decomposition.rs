//! Low-rank approximations of weights, for the methods that start from one. They are made on the host in `f64`: what
//! is taken off a frozen weight here is put back by the adapter, so errors of `f32` would stay in the model.
//!
//! Not by `faer`: version 0.24 with nothing but `std` and `linalg` is 18 further crates and some 200 s of a
//! processor's time, more than a minute of every build on two cores.

use burn::tensor::{DType, Device, Tensor, TensorData};
use peftlab_layers::Initializer;

/// Columns that randomised iteration carries besides the rank (Halko et al. 2011, arXiv 0909.4061).
const OVERSAMPLING: usize = 10;
/// Rounds over all pairs of columns; convergence is quadratic, and ten are many.
const SWEEPS: usize = 60;
/// The cosine below which two columns are orthogonal.
const ORTHOGONAL: f64 = 1e-14;

/// How the leading singular vectors are found.
#[derive(Clone, Copy)]
pub(crate) enum Decomposition {
    /// All of them, of which the leading ones are kept.
    Exact,
    /// By so many rounds of randomised subspace iteration.
    Randomised(usize),
}

/// Columns of equal length.
type Columns = Vec<Vec<f64>>;

/// `A = Σ_i s_i u_i v_iᵀ` with the singular values in descending order.
pub(crate) struct Svd {
    /// Left singular vectors.
    pub(crate) u: Columns,
    /// Singular values.
    pub(crate) s: Vec<f64>,
    /// Right singular vectors.
    pub(crate) v: Columns,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn transposed(columns: &Columns) -> Columns {
    let rows = columns.first().map_or(0, Vec::len);
    (0..rows).map(|row| columns.iter().map(|column| column[row]).collect()).collect()
}

/// `(a, b)` rotated by the angle whose cosine and sine are given.
fn rotate(columns: &mut Columns, [p, q]: [usize; 2], cosine: f64, sine: f64) {
    let (head, tail) = columns.split_at_mut(q);
    for (a, b) in head[p].iter_mut().zip(tail[0].iter_mut()) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
}

/// The singular value decomposition of a matrix given by its columns, by one-sided Jacobi rotations (Hestenes 1958).
pub(crate) fn svd(matrix: &Columns) -> Svd {
    let rows = matrix.first().map_or(0, Vec::len);
    if rows < matrix.len() {
        let Svd { u, s, v } = svd(&transposed(matrix));
        return Svd { u: v, s, v: u };
    }
    let count = matrix.len();
    let mut a = matrix.clone();
    let mut v: Columns =
        (0..count).map(|i| (0..count).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..SWEEPS {
        let mut rotated = false;
        for q in 1..count {
            for p in 0..q {
                let (pp, qq, pq) = (dot(&a[p], &a[p]), dot(&a[q], &a[q]), dot(&a[p], &a[q]));
                if pq.abs() <= ORTHOGONAL * (pp * qq).sqrt() {
                    continue;
                }
                rotated = true;
                let tau = (qq - pp) / (2.0 * pq);
                let tangent = tau.signum() / (tau.abs() + (1.0 + tau * tau).sqrt());
                let cosine = (1.0 + tangent * tangent).sqrt().recip();
                rotate(&mut a, [p, q], cosine, cosine * tangent);
                rotate(&mut v, [p, q], cosine, cosine * tangent);
            }
        }
        if !rotated {
            break;
        }
    }
    let norms: Vec<f64> = a.iter().map(|column| dot(column, column).sqrt()).collect();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|i, j| norms[*j].total_cmp(&norms[*i]));
    let unit = |i: usize| {
        let norm = if norms[i] > 0.0 { norms[i] } else { 1.0 };
        a[i].iter().map(|value| value / norm).collect()
    };
    Svd {
        u: order.iter().map(|i| unit(*i)).collect(),
        s: order.iter().map(|i| norms[*i]).collect(),
        v: order.iter().map(|i| v[*i].clone()).collect(),
    }
}

/// Orthonormal columns that span the same as `columns`, each with those before it: Gram-Schmidt, twice for accuracy.
fn orthonormal(mut columns: Columns) -> Columns {
    for i in 0..columns.len() {
        let (before, rest) = columns.split_at_mut(i);
        let column = &mut rest[0];
        for _ in 0..2 {
            for other in before.iter() {
                let along = dot(other, column);
                column.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
            }
        }
        let norm = dot(column, column).sqrt();
        if norm > 0.0 {
            column.iter_mut().for_each(|value| *value /= norm);
        }
    }
    columns
}

/// `matrix` times each of `vectors`.
fn times(matrix: &Columns, vectors: &Columns) -> Columns {
    let rows = matrix.first().map_or(0, Vec::len);
    let one = |vector: &Vec<f64>| {
        let mut out = vec![0.0; rows];
        for (column, factor) in matrix.iter().zip(vector) {
            out.iter_mut().zip(column).for_each(|(out, value)| *out += factor * value);
        }
        out
    };
    vectors.iter().map(one).collect()
}

/// The columns of `tensor`.
pub(crate) fn columns(tensor: &Tensor<2>) -> Columns {
    let [rows, width] = tensor.dims();
    let values: Vec<f32> = tensor.clone().into_data().iter::<f32>().collect();
    (0..width).map(|column| (0..rows).map(|row| f64::from(values[row * width + column])).collect()).collect()
}

/// A tensor of these columns, in `f32`.
pub(crate) fn tensor(columns: &Columns, device: &Device) -> Tensor<2> {
    let shape = [columns.first().map_or(0, Vec::len), columns.len()];
    let values: Vec<f32> = transposed(columns).into_iter().flatten().map(|value| value as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

/// The leading `rank` singular values and vectors of `weight`.
pub(crate) fn leading(weight: &Tensor<2>, rank: usize, how: Decomposition, init: &mut Initializer) -> Svd {
    let matrix = columns(weight);
    let mut found = match how {
        Decomposition::Exact => svd(&matrix),
        Decomposition::Randomised(rounds) => {
            let across = transposed(&matrix);
            let [rows, width] = [across.len(), matrix.len()];
            let carried = (rank + OVERSAMPLING).min(rows).min(width);
            let drawn = columns(&init.normal(1.0, [width, carried]).val());
            let mut basis = orthonormal(times(&matrix, &drawn));
            for _ in 0..rounds {
                basis = orthonormal(times(&matrix, &times(&across, &basis)));
            }
            // basis · (basisᵀ A): the small factor's decomposition is the whole one's
            let Svd { u, s, v } = svd(&times(&across, &basis));
            Svd { u: times(&basis, &v), s, v: u }
        }
    };
    found.u.truncate(rank);
    found.s.truncate(rank);
    found.v.truncate(rank);
    found
}

/// `(A, B)`, `[in, r]` and `[r, out]`, with `scale · A B` the best approximation of `weight` `[in, out]` of rank r,
/// and the singular values shared evenly between both.
pub(crate) fn balanced(
    weight: &Tensor<2>,
    rank: usize,
    scale: f64,
    how: Decomposition,
    init: &mut Initializer,
) -> (Tensor<2>, Tensor<2>) {
    let Svd { u, s, v } = leading(weight, rank, how, init);
    let scaled = |columns: Columns| -> Columns {
        let each = columns.into_iter().zip(&s);
        each.map(|(column, s)| column.into_iter().map(|value| value * (s / scale).sqrt()).collect()).collect()
    };
    let device = weight.device();
    (tensor(&scaled(u), &device), tensor(&scaled(v), &device).transpose())
}

/// `(Q, R)`, `[rows, r]` and `[r, columns]`: the first r columns and rows of the QR decomposition of `weight`
/// `[rows, columns]`.
pub(crate) fn leading_qr(weight: &Tensor<2>, rank: usize) -> (Tensor<2>, Tensor<2>) {
    let matrix = columns(weight);
    let q = orthonormal(matrix[..rank].to_vec());
    let r: Columns = matrix.iter().map(|column| q.iter().map(|q| dot(q, column)).collect()).collect();
    (tensor(&q, &weight.device()), tensor(&r, &weight.device()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize) -> Tensor<2> {
        let value = |i: usize| ((i * 7919 + 13) % 101) as f32 / 50.0 - 1.0;
        let values: Vec<f32> = (0..rows * columns).map(value).collect();
        Tensor::from_data(TensorData::new(values, [rows, columns]), &Device::flex())
    }

    fn largest(tensor: Tensor<2>) -> f32 {
        tensor.abs().max().into_scalar::<f32>()
    }

    #[test]
    fn all_ranks_give_the_matrix_and_randomised_gives_the_exact_product() {
        let mut init = Initializer::new(0, &Device::flex());
        for [rows, columns] in [[12, 9], [9, 12]] {
            let weight = matrix(rows, columns);
            let (a, b) = balanced(&weight, 9, 2.0, Decomposition::Exact, &mut init);
            assert!(largest(a.matmul(b) * 2.0 - weight.clone()) < 1e-6);
            let (a, b) = balanced(&weight, 3, 2.0, Decomposition::Exact, &mut init);
            let exact = a.matmul(b);
            let (a, b) = balanced(&weight, 3, 2.0, Decomposition::Randomised(40), &mut init);
            assert!(largest(a.matmul(b) - exact) < 1e-5);
        }
    }

    #[test]
    fn singular_vectors_are_orthonormal() {
        let Svd { u, s, v } = svd(&columns(&matrix(12, 9)));
        assert!(s.windows(2).all(|pair| pair[0] >= pair[1]));
        for vectors in [u, v] {
            for (i, a) in vectors.iter().enumerate() {
                for (j, b) in vectors.iter().enumerate() {
                    let expected = f64::from(u8::from(i == j));
                    assert!((dot(a, b) - expected).abs() < 1e-12, "{i} {j}");
                }
            }
        }
    }

    #[test]
    fn the_whole_qr_gives_the_matrix() {
        let weight = matrix(7, 10);
        let (q, r) = leading_qr(&weight, 7);
        assert!(largest(q.matmul(r) - weight) < 1e-6);
    }
}
