//! Linear maps as sites: what a method may do to a projection.

use std::hash::Hasher;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peftlab_ops::{self as ops, Packed};
use rustc_hash::FxHasher;

use crate::context::Context;
use crate::erased::{Attached, ErasedModule};

/// What a projection is to the network it is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Attention's query projection.
    Query,
    /// Attention's key projection.
    Key,
    /// Attention's value projection.
    Value,
    /// Attention's output projection.
    AttentionOutput,
    /// The gate of a gated feed-forward network.
    Gate,
    /// Into the feed-forward network's hidden width.
    Up,
    /// Out of the feed-forward network's hidden width.
    Down,
    /// The task's head, or a language model's output layer.
    Head,
}

/// A projection's name and shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionInfo {
    /// The module's name on the Hub, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// What it is to the network.
    pub role: Role,
    /// Input width.
    pub input: usize,
    /// Output width.
    pub output: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

impl ProjectionInfo {
    /// Number of values of the weight.
    pub fn elements(&self) -> usize {
        self.input * self.output
    }

    /// The number of the block that it is in: the first number in its name.
    pub fn layer(&self) -> Option<usize> {
        self.name.split('.').find_map(|part| part.parse().ok())
    }
}

/// A linear map of the network, with what methods attached to it. Its weight is dense or packed.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[in, out]`; absent where the weight is packed.
    weight: Option<Param<Tensor<2>>>,
    /// `[out, in]`
    packed: Option<Packed>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    /// Methods' state; the last one attached is the outermost.
    pub adapters: Vec<Attached<dyn ProjectionAdapter>>,
    /// Name and shape.
    #[module(skip)]
    pub info: ProjectionInfo,
}

impl Projection {
    /// A projection with nothing attached.
    pub(crate) fn new(
        weight: Param<Tensor<2>>,
        bias: Option<Param<Tensor<1>>>,
        info: ProjectionInfo,
    ) -> Self {
        Self { weight: Some(weight), packed: None, bias, adapters: Vec::new(), info }
    }

    /// `[batch, sequence, in]` to `[batch, sequence, out]`, through every attached method.
    pub fn forward(&self, input: Tensor<3>, context: &Context) -> Tensor<3> {
        Inner { projection: self, depth: self.adapters.len(), context }.forward(input)
    }

    /// The weight, `[in, out]`; a packed one is unpacked for the call.
    pub fn weight(&self) -> Tensor<2> {
        self.base().dense()
    }

    /// Puts another frozen weight, `[in, out]`, in the place of the weight.
    pub fn set_weight(&mut self, weight: Tensor<2>) {
        (self.weight, self.packed) = (Some(frozen(weight)), None);
    }

    /// Puts a packed weight in the place of the weight.
    pub fn set_packed(&mut self, packed: Packed) {
        (self.weight, self.packed) = (None, Some(packed));
    }

    /// Bytes of the weight and the bias as they are kept.
    pub fn bytes(&self) -> usize {
        let of_param = |elements: usize, dtype: burn::tensor::DType| elements * dtype.size();
        let weight = self.weight.as_ref().map_or(0, |w| of_param(self.info.elements(), w.val().dtype()));
        let bias = self.bias.as_ref().map_or(0, |b| of_param(self.info.output, b.val().dtype()));
        weight + bias + self.packed.as_ref().map_or(0, Packed::bytes)
    }

    /// A fingerprint of the packed weight's bits; none where the weight is dense.
    pub fn packed_fingerprint(&self) -> Option<u64> {
        let packed = self.packed.as_ref()?;
        let mut hasher = FxHasher::default();
        packed.data().iter().for_each(|part| hasher.write(part.as_bytes()));
        Some(hasher.finish())
    }

    fn base(&self) -> Weight {
        match (&self.weight, &self.packed) {
            (_, Some(packed)) => Weight::Packed(packed.clone()),
            (Some(weight), None) => Weight::Dense(weight.val()),
            (None, None) => {
                unreachable!("a projection has a weight: whatever takes it away puts another there")
            }
        }
    }

    fn merged(&self, context: &Context) -> Result<Merged, String> {
        let bias = self.bias.as_ref().map(Param::val);
        self.adapters
            .iter()
            .try_fold(Merged { weight: self.base(), bias }, |merged, adapter| adapter.merge(merged, context))
            .ok_or_else(|| self.info.name.clone())
    }

    /// Puts every attached method that can be into the weights, and takes it off.
    ///
    /// # Errors
    /// The name of this projection where a method cannot be merged; nothing is changed then.
    pub fn merge(&mut self, context: &Context) -> Result<(), String> {
        if self.adapters.is_empty() {
            return Ok(());
        }
        let Merged { weight, bias } = self.merged(context)?;
        match weight {
            Weight::Dense(weight) => self.set_weight(weight),
            Weight::Packed(packed) => self.set_packed(packed),
        }
        self.bias = bias.map(frozen);
        self.adapters.clear();
        Ok(())
    }

    /// As [`merge`](Self::merge) for a packed weight, packed again by the same rule: what is lost is lost. Returns
    /// whether the weight was packed, and merging had made it dense.
    ///
    /// # Errors
    /// As [`merge`](Self::merge).
    pub fn merge_packed(&mut self, context: &Context) -> Result<bool, String> {
        let packed = self.packed.clone();
        self.merge(context)?;
        match (packed, &self.weight) {
            (Some(packed), Some(weight)) => {
                let again = packed.repack(weight.val().transpose());
                self.set_packed(again);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

fn frozen<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(tensor.detach()).set_require_grad(false)
}

/// A frozen weight, as it is kept.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are a few at a time, on their way to being merged")]
pub enum Weight {
    /// `[in, out]`
    Dense(Tensor<2>),
    /// `[out, in]` in four bits a value.
    Packed(Packed),
}

impl Weight {
    /// The values, `[in, out]`.
    pub fn dense(&self) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.clone(),
            Self::Packed(packed) => packed.unpack().transpose(),
        }
    }
}

/// A projection's weights on the way to being merged.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The weight.
    pub weight: Weight,
    /// `[out]`
    pub bias: Option<Tensor<1>>,
}

impl Merged {
    /// The same with `change` of the weight, `[in, out]`, made in `f32` and rounded once.
    #[must_use]
    pub fn with_weight(self, change: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Self {
        let dense = self.weight.dense();
        let dtype = dense.dtype();
        let weight = Weight::Dense(change(dense.cast(burn::tensor::DType::F32)).cast(dtype));
        Self { weight, ..self }
    }

    /// The same with `update`, `[in, out]`, added to the weight.
    #[must_use]
    pub fn plus(self, update: Tensor<2>) -> Self {
        self.with_weight(|weight| weight + update)
    }
}

/// The projection as an adapter finds it: the frozen linear with the adapters attached before.
pub struct Inner<'a> {
    projection: &'a Projection,
    depth: usize,
    /// The forward pass this is part of.
    pub context: &'a Context,
}

impl Inner<'_> {
    /// What the projection gives without the adapter.
    pub fn forward(&self, input: Tensor<3>) -> Tensor<3> {
        let Projection { weight, packed, bias, adapters, info } = self.projection;
        let Some(depth) = self.depth.checked_sub(1) else {
            let bias = bias.as_ref().map(Param::val);
            return match (weight, packed) {
                (Some(weight), None) => ops::linear(input, weight.val(), bias),
                _ => {
                    let [batch, length, _] = input.dims();
                    let rows = input.reshape([batch * length, info.input]);
                    let output = packed.as_ref().map_or_else(
                        || unreachable!("a projection has a weight"),
                        |packed| packed.linear(rows),
                    );
                    let output = output.reshape([batch, length, info.output]);
                    match bias {
                        Some(bias) => {
                            let bias = ops::cast_like(bias, &output);
                            output + bias.unsqueeze()
                        }
                        None => output,
                    }
                }
            };
        };
        adapters[depth].forward(input, &Inner { depth, ..*self })
    }

    /// `input` through the frozen weight alone, without the bias.
    pub fn without_bias(&self, input: Tensor<3>) -> Tensor<3> {
        ops::linear(input, self.weight(), None)
    }

    /// The frozen weight, `[in, out]`.
    pub fn weight(&self) -> Tensor<2> {
        self.projection.weight()
    }

    /// The bias, `[out]`.
    pub fn bias(&self) -> Option<Tensor<1>> {
        self.projection.bias.as_ref().map(Param::val)
    }

    /// Name and shape of the projection.
    pub fn info(&self) -> &ProjectionInfo {
        &self.projection.info
    }
}

/// A method's state at one projection.
pub trait ProjectionAdapter: ErasedModule {
    /// Replaces the projection's forward, `[batch, sequence, in]` to `[batch, sequence, out]`.
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3>;

    /// The weights that do without the adapter what they did with it, or `None` where there are none.
    fn merge(&self, weights: Merged, context: &Context) -> Option<Merged>;
}

dyn_clone::clone_trait_object!(ProjectionAdapter);
