//! The sites: the places of a network where a method can act, and what a method may do at each.
//!
//! A backbone is built of these and knows no method; a method acts through them and knows no backbone.

use std::fmt::Debug;

use burn::module::{Module, Param};
use burn::tensor::{Bool, Int, Tensor};
use peftlab_ops as ops;

use crate::context::{Context, ModelInput, Output};
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

/// A linear map of the network, with what methods attached to it.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[in, out]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    /// Methods' state; the last one attached is the outermost.
    pub adapters: Vec<Attached<dyn ProjectionAdapter>>,
    /// Name and shape.
    #[module(skip)]
    pub info: ProjectionInfo,
}

impl Projection {
    /// `[batch, sequence, in]` to `[batch, sequence, out]`, through every attached method.
    pub fn forward(&self, input: Tensor<3>, context: &Context) -> Tensor<3> {
        Inner { projection: self, depth: self.adapters.len(), context }.forward(input)
    }

    /// Puts every attached method that can be into the weights, and takes it off.
    ///
    /// # Errors
    /// The name of this projection where a method cannot be merged; nothing is changed then.
    pub fn merge(&mut self) -> Result<(), String> {
        let mut merged =
            Merged { weight: self.weight.val(), bias: self.bias.as_ref().map(burn::module::Param::val) };
        for adapter in &self.adapters {
            merged = adapter.merge(merged).ok_or_else(|| self.info.name.clone())?;
        }
        if !self.adapters.is_empty() {
            self.weight = frozen(merged.weight);
            self.bias = merged.bias.map(frozen);
            self.adapters.clear();
        }
        Ok(())
    }
}

fn frozen<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(tensor.detach()).set_require_grad(false)
}

/// A projection's weights on the way to being merged.
#[derive(Clone, Debug)]
pub struct Merged {
    /// `[in, out]`
    pub weight: Tensor<2>,
    /// `[out]`
    pub bias: Option<Tensor<1>>,
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
        match self.depth.checked_sub(1) {
            None => {
                let Projection { weight, bias, .. } = self.projection;
                ops::linear(input, weight.val(), bias.as_ref().map(burn::module::Param::val))
            }
            Some(depth) => self.projection.adapters[depth].forward(input, &Inner { depth, ..*self }),
        }
    }

    /// The frozen weight, `[in, out]`.
    pub fn weight(&self) -> Tensor<2> {
        self.projection.weight.val()
    }
}

/// A method's state at one projection.
pub trait ProjectionAdapter: ErasedModule {
    /// Replaces the projection's forward, `[batch, sequence, in]` to `[batch, sequence, out]`.
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3>;

    /// The weights that do without the adapter what they did with it, or `None` where there are none.
    fn merge(&self, weights: Merged) -> Option<Merged>;
}

dyn_clone::clone_trait_object!(ProjectionAdapter);

/// An attention of the network: where keys and values are put in front of the sequence's own.
#[derive(Module, Debug, Default)]
pub struct AttentionSite {
    /// Methods' state.
    pub adapters: Vec<Attached<dyn AttentionAdapter>>,
}

/// Keys and values of an attention.
#[derive(Clone, Debug)]
pub struct KeysValues {
    /// `[batch, key heads, keys, head]`; in what an adapter adds, `batch` may be 1.
    pub keys: Tensor<4>,
    /// As `keys`.
    pub values: Tensor<4>,
}

/// A method's state at one attention.
pub trait AttentionAdapter: ErasedModule {
    /// Keys and values that every query sees, before those of the sequence. They are taken as they are: no
    /// rotary embedding is applied to them.
    fn prefix(&self, context: &Context) -> KeysValues;
}

dyn_clone::clone_trait_object!(AttentionAdapter);

/// Which keys a query must not see, besides what the site adds.
#[derive(Clone, Debug)]
pub struct AttentionMask {
    /// No query sees a later key.
    pub causal: bool,
    /// True at padded keys, `[batch, length]`.
    pub padding: Option<Tensor<2, Bool>>,
}

impl AttentionMask {
    /// The mask for `length` queries over `extra + length` keys, or `None` where everything is seen.
    fn build(&self, length: usize, extra: usize, device: &burn::tensor::Device) -> Option<Tensor<4, Bool>> {
        let device = device.clone().without_autodiff();
        let causal = self.causal.then(|| ops::causal_mask(length, extra, &device));
        let padding = self.padding.clone().map(|padding| ops::padding_mask(padding, extra));
        match (causal, padding) {
            (Some(causal), Some(padding)) => {
                let [batch, _, _, keys] = padding.dims();
                let shape = [batch, 1, length, keys];
                Some(causal.expand(shape).bool_or(padding.expand(shape)))
            }
            (causal, padding) => causal.or(padding),
        }
    }
}

impl AttentionSite {
    /// Attention of `query` `[batch, heads, length, head]` over `own` keys and values and those that methods
    /// put in front. Where there are fewer key heads than query heads, each serves a group of them.
    pub fn attend(
        &self,
        query: Tensor<4>,
        own: KeysValues,
        mask: &AttentionMask,
        dropout: f64,
        context: &Context,
    ) -> Tensor<4> {
        let [batch, heads, length, _] = query.dims();
        let KeysValues { mut keys, mut values } = own;
        for adapter in &self.adapters {
            let prefix = adapter.prefix(context);
            keys = put_before(prefix.keys, keys, batch);
            values = put_before(prefix.values, values, batch);
        }
        let extra = keys.dims()[2] - length;
        let mask = mask.build(length, extra, &query.device());
        let (keys, values) = (repeat_heads(keys, heads), repeat_heads(values, heads));
        ops::attention(query, keys, values, mask, |probabilities| context.dropout(probabilities, dropout))
    }
}

fn put_before(first: Tensor<4>, rest: Tensor<4>, batch: usize) -> Tensor<4> {
    let [_, heads, length, head] = first.dims();
    Tensor::cat(vec![ops::cast_like(first, &rest).expand([batch, heads, length, head]), rest], 2)
}

/// Each of the `[batch, key heads, ..]` heads repeated, so that there are `heads` of them.
fn repeat_heads(tensor: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, key_heads, length, head] = tensor.dims();
    if key_heads == heads {
        return tensor;
    }
    let group = heads / key_heads;
    tensor
        .reshape([batch, key_heads, 1, length, head])
        .expand([batch, key_heads, group, length, head])
        .reshape([batch, heads, length, head])
}

/// Which sub-layer of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubLayer {
    /// Self-attention with its output projection.
    Attention,
    /// The feed-forward network.
    FeedForward,
}

/// A sub-layer's output on its way to the residual stream.
pub struct SubLayerOutput<'a> {
    /// Which sub-layer.
    pub layer: SubLayer,
    /// What the sub-layer gave, `[batch, sequence, hidden]`, before the residual is added.
    pub output: Tensor<3>,
    /// What it read: after the norm in a pre-norm network, the residual stream itself in a post-norm one.
    pub input: Tensor<3>,
    /// The residual stream that the output is about to be added to.
    pub residual: Tensor<3>,
    /// The layer norm that follows the addition, in a post-norm network.
    pub norm_after: Option<&'a LayerNorm>,
}

/// A transformer block: where a method acts on a sub-layer's output, before it joins the residual stream.
#[derive(Module, Debug, Default)]
pub struct BlockSite {
    /// Methods' state.
    pub adapters: Vec<Attached<dyn BlockAdapter>>,
}

impl BlockSite {
    /// The sub-layer's output after every attached method.
    pub fn apply(&self, mut sub_layer: SubLayerOutput<'_>, context: &Context) -> Tensor<3> {
        for adapter in &self.adapters {
            sub_layer.output = adapter.apply(&sub_layer, context);
        }
        sub_layer.output
    }
}

/// A method's state at one block.
pub trait BlockAdapter: ErasedModule {
    /// The output that takes the place of `sub_layer.output`, of the same shape.
    fn apply(&self, sub_layer: &SubLayerOutput<'_>, context: &Context) -> Tensor<3>;
}

dyn_clone::clone_trait_object!(BlockAdapter);

/// The input embedding: where vectors are put before those of the tokens.
#[derive(Module, Debug, Default)]
pub struct EmbeddingSite {
    /// Methods' state.
    pub adapters: Vec<Attached<dyn EmbeddingAdapter>>,
}

impl EmbeddingSite {
    /// Puts the methods' vectors before `tokens` `[batch, length, hidden]`, and extends the padding by as
    /// many positions that are none. Returns how many were added, too.
    pub fn apply(
        &self,
        mut tokens: Tensor<3>,
        mut padding: Option<Tensor<2, Bool>>,
        context: &Context,
    ) -> (Tensor<3>, Option<Tensor<2, Bool>>, usize) {
        let [batch, length, hidden] = tokens.dims();
        for adapter in &self.adapters {
            let vectors = ops::cast_like(adapter.vectors(context), &tokens);
            let count = vectors.dims()[0];
            tokens = Tensor::cat(vec![vectors.unsqueeze::<3>().expand([batch, count, hidden]), tokens], 1);
        }
        let added = tokens.dims()[1] - length;
        if added > 0 {
            padding =
                padding.map(|padding| ops::padding_mask(padding, added).reshape([batch, added + length]));
        }
        (tokens, padding, added)
    }
}

/// A method's state at the embedding.
pub trait EmbeddingAdapter: ErasedModule {
    /// Vectors to be put before the sequence, `[count, hidden]`.
    fn vectors(&self, context: &Context) -> Tensor<2>;
}

dyn_clone::clone_trait_object!(EmbeddingAdapter);

/// What a method holds once for the whole model: tensors that sites share.
pub trait ModelAdapter: ErasedModule {
    /// Computes what the sites of one forward pass need, and puts it into the context.
    fn prepare(&self, context: &mut Context);

    /// Brings what was trained into the form that is deployed, such as a prefix without the network that made
    /// it.
    fn bake(&mut self) {}
}

dyn_clone::clone_trait_object!(ModelAdapter);

/// All sites of a network.
pub struct Sites<'a> {
    /// The input embedding.
    pub embedding: &'a mut EmbeddingSite,
    /// Every projection, in the order of the network.
    pub projections: Vec<&'a mut Projection>,
    /// Every attention, by layer.
    pub attentions: Vec<&'a mut AttentionSite>,
    /// Every block, by layer.
    pub blocks: Vec<&'a mut BlockSite>,
}

/// Sizes of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// Transformer blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward network.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub key_heads: usize,
    /// Width of a head.
    pub head: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Longest sequence, in tokens.
    pub positions: usize,
}

/// A network that methods can be attached to.
pub trait Backbone: ErasedModule {
    /// Logits for a batch.
    fn forward(&self, input: &ModelInput, context: &Context) -> Output;
    /// Every site.
    fn sites(&mut self) -> Sites<'_>;
    /// Its sizes.
    fn dimensions(&self) -> Dimensions;
    /// The table of token embeddings, `[vocabulary, hidden]`.
    fn token_embeddings(&self) -> Tensor<2>;
    /// Whether a parameter of this name belongs to the task's head, which is trained with every method.
    fn is_head(&self, parameter: &str) -> bool;
}

dyn_clone::clone_trait_object!(Backbone);

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
}

impl Embedding {
    /// `[batch, length]` to `[batch, length, hidden]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let vectors = burn::tensor::module::embedding(self.weight.val(), ids.clone());
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
