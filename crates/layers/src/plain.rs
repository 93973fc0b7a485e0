//! Layers that are no sites: norms, tables, and linear maps that methods are made of.

use burn::module::{Module, Param};
use burn::tensor::{DType, Int, Tensor};
use peftlab_ops as ops;

/// A linear map that is no site: what methods are made of.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[in, out]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// `[batch, sequence, in]` to `[batch, sequence, out]`.
    pub fn forward(&self, input: Tensor<3>) -> Tensor<3> {
        ops::linear(input, self.weight.val(), self.bias.as_ref().map(burn::module::Param::val))
    }
}

/// Layer normalisation.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[hidden]`
    pub weight: Param<Tensor<1>>,
    /// `[hidden]`
    pub bias: Param<Tensor<1>>,
    /// Added to the variance.
    #[module(skip)]
    pub epsilon: f64,
}

impl LayerNorm {
    /// Normalises the last dimension.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        ops::layer_norm(input, self.weight.val(), self.bias.val(), self.epsilon)
    }
}

/// Root-mean-square normalisation.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[hidden]`
    pub weight: Param<Tensor<1>>,
    /// Added to the mean square.
    #[module(skip)]
    pub epsilon: f64,
}

impl RmsNorm {
    /// Normalises the last dimension.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        ops::rms_norm(input, self.weight.val(), self.epsilon)
    }
}

/// A table of vectors.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[entries, hidden]`
    pub weight: Param<Tensor<2>>,
    /// The entry that stands for padding and gets no gradient, as torch's `padding_idx`.
    #[module(skip)]
    pub padding: Option<i64>,
    /// Element type of the vectors that are looked up, and so of the activations: a trained table is in `f32`.
    #[module(skip)]
    pub compute: DType,
}

impl Embedding {
    /// `[batch, length]` to `[batch, length, hidden]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let vectors = burn::tensor::module::embedding(self.weight.val(), ids.clone());
        let vectors = if vectors.dtype() == self.compute { vectors } else { vectors.cast(self.compute) };
        match self.padding {
            Some(padding) if self.weight.is_require_grad() => {
                let dims = vectors.dims();
                let padded = ids.equal_elem(padding).unsqueeze_dim::<3>(2).expand(dims);
                vectors.clone().mask_where(padded, vectors.detach())
            }
            _ => vectors,
        }
    }
}
