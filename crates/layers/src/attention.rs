//! Attentions as sites: keys and values in front of the sequence's own, and which keys a query sees.

use burn::module::Module;
use burn::tensor::{Bool, Tensor};
use peftlab_ops as ops;

use crate::context::Context;
use crate::erased::{Attached, ErasedModule};

/// An attention of the network: where keys and values are put in front of the sequence's own, and where the pattern
/// of attention is changed.
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
    /// Keys and values before those of the sequence, which every query sees but for a window. They are taken as they are: no
    /// rotary embedding is applied to them.
    fn prefix(&self, context: &Context) -> Option<KeysValues> {
        let _ = context;
        None
    }

    /// Takes the place of full attention in this pass, of `query`, `keys` and `values` `[batch, heads, length, head]`
    /// over a sequence with no prefix.
    fn pattern(&self, attention: &Attention<'_>) -> Option<Tensor<4>> {
        let _ = attention;
        None
    }

    /// Whether evaluation does without this adapter, so that a merged model needs it no more.
    fn only_in_training(&self) -> bool {
        false
    }
}

dyn_clone::clone_trait_object!(AttentionAdapter);

/// One call of an attention, after the heads were split and repeated.
pub struct Attention<'a> {
    /// `[batch, heads, length, head]`
    pub query: Tensor<4>,
    /// As `query`.
    pub keys: Tensor<4>,
    /// As `query`.
    pub values: Tensor<4>,
    /// Which keys must not be seen.
    pub mask: &'a AttentionMask,
    /// Dropout on the probabilities.
    pub dropout: f64,
    /// The forward pass this is part of.
    pub context: &'a Context,
}

impl Attention<'_> {
    /// The part of the batch and the positions that `part` makes of a tensor `[batch, heads, length, head]`, with the
    /// mask that belongs to it: `padding` `[batch, length]`, true at padded keys.
    pub fn over(&self, part: impl Fn(Tensor<4>) -> Tensor<4>, padding: Option<Tensor<2, Bool>>) -> Tensor<4> {
        let [query, keys, values] = [&self.query, &self.keys, &self.values].map(|t| part(t.clone()));
        let mask = AttentionMask { padding, ..*self.mask };
        let mask = mask.build(query.dims()[2], 0, &query.device());
        ops::attention(query, keys, values, mask, |p| self.context.dropout(p, self.dropout))
    }
}

/// Which keys a query must not see, besides what the site adds.
#[derive(Clone, Debug)]
pub struct AttentionMask {
    /// No query sees a later key.
    pub causal: bool,
    /// With `causal`, how many keys a query sees at most, itself included (Mistral's sliding window, Jiang et al. 2023,
    /// arXiv 2310.06825); all earlier ones if absent. Keys that a method puts in front are the earliest.
    pub window: Option<usize>,
    /// True at padded keys, `[batch, length]`.
    pub padding: Option<Tensor<2, Bool>>,
}

impl AttentionMask {
    /// The mask for `length` queries over `extra + length` keys, or `None` where everything is seen.
    fn build(&self, length: usize, extra: usize, device: &burn::tensor::Device) -> Option<Tensor<4, Bool>> {
        let device = device.clone().without_autodiff();
        let causal = self.causal.then(|| ops::causal_mask(length, extra, self.window, &device));
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
        for prefix in self.adapters.iter().filter_map(|adapter| adapter.prefix(context)) {
            keys = put_before(prefix.keys, keys, batch);
            values = put_before(prefix.values, values, batch);
        }
        let extra = keys.dims()[2] - length;
        let (keys, values) = (repeat_heads(keys, heads), repeat_heads(values, heads));
        let attention = Attention { query, keys, values, mask, dropout, context };
        if extra == 0
            && let Some(output) = self.adapters.iter().find_map(|adapter| adapter.pattern(&attention))
        {
            return output;
        }
        let Attention { query, keys, values, .. } = attention;
        let mask = mask.build(length, extra, &query.device());
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
