use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peftlab_layers::{
    Attached, AttentionAdapter, Context, Initializer, KeysValues, Linear, Model, ModelAdapter,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checks::check_rank;
use super::prompt_tuning::{Table, check_length, prompt_config, virtual_tokens};
use crate::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig};

/// Prefix tuning: trained keys and values before those of the sequence, in every attention.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrefixTuning {
    /// l
    pub num_virtual_tokens: usize,
    /// Whether a network of two layers makes the prefix in training.
    pub prefix_projection: bool,
    /// That network's hidden width; the model's if absent.
    pub encoder_hidden_size: Option<usize>,
}

impl Default for PrefixTuning {
    fn default() -> Self {
        Self { num_virtual_tokens: 20, prefix_projection: false, encoder_hidden_size: None }
    }
}

/// Width of all keys of a token, and of all keys and values of all layers.
fn widths(outline: &Outline) -> (usize, usize) {
    let keys = outline.dimensions.key_heads * outline.dimensions.head;
    (keys, 2 * outline.dimensions.layers * keys)
}

impl PrefixTuning {
    fn hidden(&self, outline: &Outline) -> usize {
        self.encoder_hidden_size.unwrap_or(outline.dimensions.hidden)
    }
}

impl Method for PrefixTuning {
    const CARD: Card = Card {
        name: "prefix-tuning",
        title: "Prefix tuning",
        family: Family::Additive,
        paper: "Li & Liang 2021, arXiv 2101.00190; flat: P-tuning v2, Liu et al. 2021, arXiv 2110.07602",
        summary: "In every layer l trained keys and values are put before the sequence's own, \
                  Attn(q, [P_K; K], [P_V; V]); no rotary embedding is applied to them, and the tokens' positions start \
                  at l. With `prefix_projection` they come from an MLP, P = W₂ tanh(W₁ E), which is dropped after \
                  training.",
        identity: Identity::No,
        merge: MergeKind::No,
        not_for: "",
        settings: &[
            ("num_virtual_tokens", "20", "l"),
            ("prefix_projection", "false", "make the prefix with an MLP in training"),
            ("encoder_hidden_size", "the model's hidden size", "hidden width of that MLP"),
        ],
    };

    fn label(&self) -> String {
        let mlp = if self.prefix_projection { " mlp" } else { "" };
        format!("prefix-tuning{mlp} l={}", self.num_virtual_tokens)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        check_length(self.num_virtual_tokens, outline)?;
        let (keys, all) = widths(outline);
        let stored = self.num_virtual_tokens * all;
        let adapter = if self.prefix_projection {
            let hidden = self.hidden(outline);
            check_rank("encoder_hidden_size", hidden)?;
            self.num_virtual_tokens * keys + (keys + 1) * hidden + (hidden + 1) * all
        } else {
            stored
        };
        Ok(Count { adapter, stored, buffers: 0 })
    }

    fn virtual_tokens(&self) -> usize {
        self.num_virtual_tokens
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        check_length(self.num_virtual_tokens, outline)?;
        let (keys, all) = widths(outline);
        let hidden = self.hidden(outline);
        let width = if self.prefix_projection { keys } else { all };
        let transform = self.prefix_projection.then(|| {
            let mut layer = |input: usize, output| Linear {
                weight: init.kaiming([input, output]),
                bias: Some(init.uniform((input as f64).powf(-0.5), [output])),
            };
            (layer(keys, hidden), Tanh {}, layer(hidden, all))
        });
        let embedding = Table { weight: init.normal(1.0, [self.num_virtual_tokens, width]) };
        let prefix = Prefix {
            prompt_encoder: PrefixEncoder { embedding, transform },
            key_heads: outline.dimensions.key_heads,
            head: outline.dimensions.head,
        };
        model.adapters.push(Attached::new(Box::new(prefix)));
        for (layer, site) in model.sites().attentions.into_iter().enumerate() {
            site.adapters.push(Attached::new(Box::new(LayerPrefix { layer })));
        }
        Ok(())
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        if !config.is("PREFIX_TUNING") {
            return Ok(None);
        }
        Ok(Some(Self {
            num_virtual_tokens: virtual_tokens(config)?,
            prefix_projection: config.is_on("prefix_projection")?,
            encoder_hidden_size: match config.integer("encoder_hidden_size", 0)? {
                0 => None,
                size => Some(size),
            },
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        let mut config = prompt_config("PREFIX_TUNING", self.num_virtual_tokens, outline);
        config["num_attention_heads"] = json!(outline.dimensions.key_heads);
        config["token_dim"] = json!(widths(outline).0);
        config["prefix_projection"] = json!(self.prefix_projection);
        config["encoder_hidden_size"] = json!(self.hidden(outline));
        Some(config)
    }
}

#[derive(Module, Debug)]
struct Tanh {}

/// Named and nested as in PEFT.
#[derive(Module, Debug)]
struct PrefixEncoder {
    embedding: Table,
    transform: Option<(Linear, Tanh, Linear)>,
}

#[derive(Module, Debug)]
struct Prefix {
    prompt_encoder: PrefixEncoder,
    #[module(skip)]
    key_heads: usize,
    #[module(skip)]
    head: usize,
}

impl PrefixEncoder {
    /// Keys and values of all layers, `[virtual tokens, 2 layers key heads head]`.
    fn forward(&self) -> Tensor<2> {
        let embedding = self.embedding.weight.val();
        match &self.transform {
            None => embedding,
            Some((first, _, second)) => {
                second.forward(first.forward(embedding.unsqueeze::<3>()).tanh()).squeeze_dim(0)
            }
        }
    }
}

/// Keys and values by layer, `[1, key heads, virtual tokens, head]` each.
struct SharedPrefix(Vec<KeysValues>);

impl ModelAdapter for Prefix {
    fn prepare(&self, context: &mut Context) {
        let prefix = self.prompt_encoder.forward();
        let [count, width] = prefix.dims();
        let pairs = width / (self.key_heads * self.head);
        // PEFT's order: K_0, V_0, K_1, V_1, ..
        let mut each =
            prefix.reshape([count, pairs, self.key_heads, self.head]).permute([1, 2, 0, 3]).chunk(pairs, 0);
        let mut layers = Vec::with_capacity(pairs / 2);
        while let (Some(values), Some(keys)) = (each.pop(), each.pop()) {
            layers.push(KeysValues { keys, values });
        }
        layers.reverse();
        context.share(SharedPrefix(layers));
        context.shift_positions(count);
    }

    fn bake(&mut self) {
        let prefix = self.prompt_encoder.forward().detach();
        self.prompt_encoder =
            PrefixEncoder { embedding: Table { weight: Param::from_tensor(prefix) }, transform: None };
    }
}

#[derive(Module, Debug)]
struct LayerPrefix {
    #[module(skip)]
    layer: usize,
}

impl AttentionAdapter for LayerPrefix {
    fn prefix(&self, context: &Context) -> Option<KeysValues> {
        let SharedPrefix(layers) = context.shared().expect("the prefix is attached with its sites");
        Some(layers[self.layer].clone())
    }
}
