//! Low-rank approximations of weights, for the methods that start from one.

use burn::tensor::{DType, Tensor};
use peftlab_layers::Initializer;

/// Sweeps that the singular values of a matrix may take; a few are enough.
const SWEEPS: usize = 100;
/// Columns that randomised iteration carries besides the rank (Halko et al. 2011, arXiv 0909.4061).
const OVERSAMPLING: usize = 10;

/// How the leading singular vectors are found.
#[derive(Clone, Copy)]
pub(crate) enum Decomposition {
    /// All of them, of which the leading ones are kept.
    Exact,
    /// By so many rounds of randomised subspace iteration.
    Randomised(usize),
}

/// `(A, B)`, `[in, r]` and `[r, out]`, with `scale · A B` the best approximation of `weight` `[in, out]` of rank r,
/// and the singular values shared evenly between both.
pub(crate) fn balanced(
    weight: Tensor<2>,
    rank: usize,
    scale: f64,
    how: Decomposition,
    init: &mut Initializer,
) -> (Tensor<2>, Tensor<2>) {
    let weight = weight.detach().cast(DType::F32);
    let (u, s, vt) = match how {
        Decomposition::Exact => burn::linalg::svd::<2, 1>(weight, SWEEPS),
        Decomposition::Randomised(rounds) => {
            let basis = range(&weight, rank + OVERSAMPLING, rounds, init);
            let (u, s, vt) = burn::linalg::svd::<2, 1>(basis.clone().transpose().matmul(weight), SWEEPS);
            (basis.matmul(u), s, vt)
        }
    };
    let [input, output] = [u.dims()[0], vt.dims()[1]];
    let root = (s.slice([0..rank]) / scale).sqrt();
    let a = u.slice([0..input, 0..rank]) * root.clone().unsqueeze_dim::<2>(0);
    let b = vt.slice([0..rank, 0..output]) * root.unsqueeze_dim::<2>(1);
    (a, b)
}

/// An orthonormal basis `[in, columns]` of what `weight` `[in, out]` mostly maps to.
fn range(weight: &Tensor<2>, columns: usize, rounds: usize, init: &mut Initializer) -> Tensor<2> {
    let [input, output] = weight.dims();
    let columns = columns.min(input).min(output);
    let drawn = init.normal(1.0, [output, columns]).val().detach();
    let mut basis = weight.clone().matmul(drawn);
    for _ in 0..rounds {
        let (orthonormal, _) = burn::linalg::qr::<2>(basis, true);
        basis = weight.clone().matmul(weight.clone().transpose().matmul(orthonormal));
    }
    burn::linalg::qr::<2>(basis, true).0
}

/// `(Q, R)` of `weight` `[rows, columns]`, `[rows, k]` and `[k, columns]` with `k` the smaller of both.
pub(crate) fn orthogonal(weight: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    burn::linalg::qr::<2>(weight.detach().cast(DType::F32), true)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn matrix(rows: usize, columns: usize) -> Tensor<2> {
        let value = |i: usize| ((i * 7919 + 13) % 101) as f32 / 50.0 - 1.0;
        let values: Vec<f32> = (0..rows * columns).map(value).collect();
        Tensor::from_data(TensorData::new(values, [rows, columns]), &Device::flex())
    }

    #[test]
    fn all_ranks_give_the_matrix_and_randomised_gives_the_exact_product() {
        let mut init = Initializer::new(0, &Device::flex());
        let weight = matrix(12, 9);
        let (a, b) = balanced(weight.clone(), 9, 2.0, Decomposition::Exact, &mut init);
        let difference = (a.matmul(b) * 2.0 - weight.clone()).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{difference}");
        let (a, b) = balanced(weight.clone(), 3, 2.0, Decomposition::Exact, &mut init);
        let exact = a.matmul(b);
        let (a, b) = balanced(weight, 3, 2.0, Decomposition::Randomised(20), &mut init);
        let difference = (a.matmul(b) - exact).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-3, "{difference}");
    }
}
