//! What AdaLoRA and IncreLoRA share: an update in triplets of a row of A, a value of E and a column of B.

use burn::tensor::Tensor;
use peftlab_ops::{cast_like, linear};

/// `x Aᵀ diag(E) Bᵀ · scale` for `x` `[batch, sequence, in]`, `a` `[r, in]`, `e` `[r, 1]` and `b` `[out, r]`.
///
/// E scales the r activations and not A, which is the same product: Burn 0.22.1 fuses the gradients of `(A E)ᵀ` into
/// one kernel that gives wrong numbers where r is 1 (see CONTRIBUTING.md).
pub(crate) fn through_triplets(
    input: Tensor<3>,
    a: Tensor<2>,
    e: Tensor<2>,
    b: Tensor<2>,
    scale: f64,
) -> Tensor<3> {
    let hidden = linear(input, a.transpose(), None);
    let rank = e.dims()[0];
    let e = cast_like(e.reshape([1, 1, rank]) * scale, &hidden);
    linear(hidden * e, b.transpose(), None)
}

/// `Aᵀ diag(E) Bᵀ`, `[in, out]`, for the same.
pub(crate) fn triplets_product(a: Tensor<2>, e: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    (a * e).transpose().matmul(b.transpose())
}

/// `‖A Aᵀ − I‖²` and `‖Bᵀ B − I‖²`, `[1]` each, for `a` `[r, in]` and `b` `[out, r]`.
pub(crate) fn distances_from_orthogonal(a: Tensor<2>, b: Tensor<2>) -> [Tensor<1>; 2] {
    [a.clone().matmul(a.transpose()), b.clone().transpose().matmul(b)].map(|gram| {
        let eye = cast_like(Tensor::<2>::eye(gram.dims()[0], &gram.device()), &gram);
        (gram - eye).square().sum()
    })
}
