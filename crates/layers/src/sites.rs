//! The sites: the places of a network where a method can act, and what a method may do at each.
//!
//! A backbone is built of these and knows no method; a method acts through them and knows no backbone.

use std::fmt::Debug;

use burn::module::Module;
use burn::tensor::{Bool, Tensor};
use peftlab_ops::{self as ops, Rotary};

use crate::attention::AttentionSite;
use crate::context::{Context, ModelInput, Output};
use crate::erased::{Attached, ErasedModule};
use crate::plain::LayerNorm;
use crate::projection::Projection;

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
    /// The rotary embedding of positions, in a network that has one.
    pub rotary: Option<&'a mut Rotary>,
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
    /// Longest sequence, in tokens; where positions are rotary, the longest that the network was trained on.
    pub positions: usize,
    /// How many keys a query sees at most, itself included, where attention has a sliding window.
    pub window: Option<usize>,
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
