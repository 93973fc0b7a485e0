use burn::tensor::{DType, FloatDType, Tensor};

use crate::cast_like;

/// Root-mean-square normalisation over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467).
///
/// `input` is `[.., hidden]`, `weight` `[hidden]`. The statistics are computed in `f32`, and so is all of it where the
/// weight is `f32`: a trained one, whose small changes a narrower type would round away.
pub fn rms_norm<const D: usize>(input: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let wide = input.clone().cast(FloatDType::F32);
    let scale = (wide.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    let normal = wide / scale;
    if weight.dtype() == DType::F32 {
        return cast_like(normal * weight.unsqueeze(), &input);
    }
    cast_like(normal, &input) * cast_like(weight, &input).unsqueeze()
}

/// Layer normalisation over the last dimension (Ba et al. 2016, arXiv 1607.06450).
///
/// `input` is `[.., hidden]`, `weight` and `bias` `[hidden]`. Types are as in [`rms_norm`]; a norm with one of its two
/// in `f32` is computed in it.
pub fn layer_norm<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let wide = input.clone().cast(FloatDType::F32);
    let centred = wide.clone() - wide.mean_dim(D - 1);
    let scale = (centred.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    let normal = centred / scale;
    if weight.dtype() == DType::F32 || bias.dtype() == DType::F32 {
        let [weight, bias] = [weight, bias].map(|tensor| cast_like(tensor, &normal));
        return cast_like(normal * weight.unsqueeze() + bias.unsqueeze(), &input);
    }
    cast_like(normal, &input) * cast_like(weight, &input).unsqueeze() + cast_like(bias, &input).unsqueeze()
}
