//! The tensor operations that backbones share, each with a body in plain tensor operations.
//!
//! These bodies are the CPU path, and the reference for any fused operation that takes their place.
//! Activations may be in a narrow type; reductions that need it are done in `f32`.

mod attention;
mod basis;
pub mod codec;
mod loss;
mod norm;
mod packed;
mod rotary;

pub use attention::{attention, causal_mask, padding_mask};
pub use basis::{BasisStream, combine, split_mix};
pub use loss::{cross_entropy_sum, mean_squared_error};
pub use norm::{layer_norm, rms_norm};
pub use packed::{Layout, Packed, Scheme};
pub use rotary::{Rotary, RotaryScaling};

use burn::tensor::Tensor;

/// `tensor` in the element type of `like`: trained tensors are `f32`, activations may not be.
pub fn cast_like<const D: usize, const E: usize>(tensor: Tensor<D>, like: &Tensor<E>) -> Tensor<D> {
    let dtype = like.dtype();
    if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) }
}

/// `x W + b` for `x` `[batch, sequence, in]`, `W` `[in, out]` and `b` `[out]`; a weight of another
/// element type is cast to that of `x`.
pub fn linear(input: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let weight = cast_like(weight, &input);
    let bias = bias.map(|bias| cast_like(bias, &input));
    burn::tensor::module::linear(input, weight, bias)
}
