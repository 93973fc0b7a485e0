use burn::tensor::{FloatDType, Tensor};

use crate::cast_like;

/// Root-mean-square normalisation over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467).
///
/// `input` is `[.., hidden]`, `weight` `[hidden]`. The statistics are computed in `f32`.
pub fn rms_norm<const D: usize>(input: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let wide = input.clone().cast(FloatDType::F32);
    let scale = (wide.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    let normal = cast_like(wide / scale, &input);
    normal * cast_like(weight, &input).unsqueeze()
}

/// Layer normalisation over the last dimension (Ba et al. 2016, arXiv 1607.06450).
///
/// `input` is `[.., hidden]`, `weight` and `bias` `[hidden]`. The statistics are computed in `f32`.
pub fn layer_norm<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let wide = input.clone().cast(FloatDType::F32);
    let centred = wide.clone() - wide.mean_dim(D - 1);
    let scale = (centred.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    let normal = cast_like(centred / scale, &input);
    normal * cast_like(weight, &input).unsqueeze() + cast_like(bias, &input).unsqueeze()
}
