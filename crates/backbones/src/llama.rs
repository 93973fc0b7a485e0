//! LLaMA (Touvron et al. 2023, arXiv 2302.13971), and the networks that differ from it by their
//! configuration alone: Llama 2 and 3, Mistral, SmolLM2.

use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Bool, Tensor};
use peftlab_layers::{
    AttentionMask, AttentionSite, Backbone, BlockSite, Builder, Context, Dimensions, Embedding,
    EmbeddingSite, KeysValues, ModelInput, Output, Projection, RmsNorm, Role, Sites, SubLayer,
    SubLayerOutput,
};
use peftlab_ops::Rotary;
use serde::Deserialize;

use crate::config::{check_dropout, check_sizes};
use crate::rope::RopeConfig;
use crate::{BackboneError, Head};

/// The keys of a Hub `config.json` that [`LlamaConfig`] reads.
pub(crate) const KEYS: [&str; 20] = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "pad_token_id",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "attention_dropout",
    "hidden_act",
    // `RopeConfig`'s
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "original_max_position_embeddings",
];

/// Mistral's: a window, and no biases.
pub(crate) const MISTRAL_KEYS: [&str; 19] = [
    "sliding_window",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "pad_token_id",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_dropout",
    "hidden_act",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "original_max_position_embeddings",
];

/// The keys of a Hub `config.json` that matter to the network.
#[derive(Clone, Debug, Deserialize)]
pub struct LlamaConfig {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    pad_token_id: Option<i64>,
    max_position_embeddings: usize,
    sliding_window: Option<usize>,
    #[serde(default = "default_epsilon")]
    rms_norm_eps: f64,
    #[serde(flatten)]
    rope: RopeConfig,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    attention_dropout: f64,
    #[serde(default = "default_activation")]
    hidden_act: String,
}

fn default_epsilon() -> f64 {
    1e-6
}

fn default_activation() -> String {
    "silu".to_owned()
}

impl LlamaConfig {
    fn dimensions(&self) -> Dimensions {
        Dimensions {
            layers: self.num_hidden_layers,
            hidden: self.hidden_size,
            feed_forward: self.intermediate_size,
            heads: self.num_attention_heads,
            key_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head: self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1)),
            vocabulary: self.vocab_size,
            positions: self.max_position_embeddings,
            window: self.sliding_window,
        }
    }

    fn check(&self) -> Result<(), BackboneError> {
        let dimensions = self.dimensions();
        check_sizes(&dimensions)?;
        check_dropout(&[("attention_dropout", self.attention_dropout)])?;
        let Dimensions { heads, key_heads, head, .. } = dimensions;
        let refuse = |message: String| Err(BackboneError::Config(message));
        if heads == 0 || key_heads == 0 || heads % key_heads != 0 {
            return refuse(format!(
                "num_attention_heads ({heads}) must be a multiple of num_key_value_heads ({key_heads})"
            ));
        }
        if dimensions.window == Some(0) {
            return refuse(
                "`sliding_window` is 0, and then no token sees any; leave it out for no window".to_owned(),
            );
        }
        if head == 0 || head % 2 != 0 {
            return refuse(format!("rotary embedding needs heads of even width, not {head}"));
        }
        // two names of one function
        if !["silu", "swish"].contains(&self.hidden_act.as_str()) {
            return refuse(format!("hidden_act `{}` is not supported; LLaMA's is `silu`", self.hidden_act));
        }
        Ok(())
    }
}

/// `LlamaForCausalLM`.
#[derive(Module, Debug)]
pub struct Llama {
    model: LlamaModel,
    /// Absent where the embedding is the head, too.
    lm_head: Option<Projection>,
}

#[derive(Module, Debug)]
struct LlamaModel {
    embed_tokens: Embedding,
    embedding_site: EmbeddingSite,
    layers: Vec<Layer>,
    norm: RmsNorm,
    #[module(skip)]
    rotary: Rotary,
    #[module(skip)]
    dimensions: Dimensions,
}

#[derive(Module, Debug)]
struct Layer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
    block_site: BlockSite,
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    o_proj: Projection,
    attention_site: AttentionSite,
    #[module(skip)]
    dimensions: Dimensions,
    #[module(skip)]
    dropout: f64,
}

#[derive(Module, Debug)]
struct Mlp {
    gate_proj: Projection,
    up_proj: Projection,
    down_proj: Projection,
}

pub(crate) fn build(
    config: &LlamaConfig,
    head: Head,
    builder: &Builder<'_>,
) -> Result<Box<dyn Backbone>, BackboneError> {
    if head != Head::LanguageModel {
        return Err(BackboneError::Head {
            backbone: config.model_type.clone(),
            offers: "causal language modelling",
        });
    }
    Ok(Box::new(Llama::new(config, builder)?))
}

impl Llama {
    /// Builds the network; every parameter is frozen.
    ///
    /// # Errors
    /// Where the configuration is not one, or a parameter cannot be had.
    pub fn new(config: &LlamaConfig, builder: &Builder<'_>) -> Result<Self, BackboneError> {
        config.check()?;
        let (hidden, vocabulary) = (config.hidden_size, config.vocab_size);
        let model = LlamaModel::new(config, &builder.at("model"))?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(builder.at("lm_head").projection(Role::Head, [hidden, vocabulary], false)?),
        };
        Ok(Self { model, lm_head })
    }
}

impl LlamaModel {
    fn new(config: &LlamaConfig, builder: &Builder<'_>) -> Result<Self, BackboneError> {
        let hidden = config.hidden_size;
        let layers = builder.at("layers");
        Ok(Self {
            embed_tokens: builder.at("embed_tokens").embedding(
                config.vocab_size,
                hidden,
                config.pad_token_id,
            )?,
            embedding_site: EmbeddingSite::default(),
            layers: (0..config.num_hidden_layers)
                .map(|layer| Layer::new(config, &layers.at(layer)))
                .collect::<Result<_, _>>()?,
            norm: builder.at("norm").rms_norm(hidden, config.rms_norm_eps)?,
            rotary: config.rope.rotary(config.dimensions().head, config.max_position_embeddings)?,
            dimensions: config.dimensions(),
        })
    }

    /// Hidden states after the last norm, `[batch, virtual + length, hidden]`.
    fn forward(&self, input: &ModelInput, context: &Context) -> Tensor<3> {
        let tokens = self.embed_tokens.forward(input.input_ids.clone());
        let (mut hidden, padding, _) = self.embedding_site.apply(tokens, input.padding.clone(), context);
        let length = hidden.dims()[1];
        let rotary = self.rotary.table(context.position_offset(), length, &hidden.device());
        for layer in &self.layers {
            hidden = layer.forward(hidden, &rotary, padding.as_ref(), context);
        }
        self.norm.forward(hidden)
    }
}

impl Layer {
    fn new(config: &LlamaConfig, builder: &Builder<'_>) -> Result<Self, BackboneError> {
        let Dimensions { hidden, feed_forward, heads, key_heads, head, .. } = config.dimensions();
        let norm = |name| builder.at(name).rms_norm(hidden, config.rms_norm_eps);
        let attention = builder.at("self_attn");
        let attend = |name, role, shape| attention.at(name).projection(role, shape, config.attention_bias);
        let mlp = builder.at("mlp");
        let feed = |name, role, shape| mlp.at(name).projection(role, shape, config.mlp_bias);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention {
                q_proj: attend("q_proj", Role::Query, [hidden, heads * head])?,
                k_proj: attend("k_proj", Role::Key, [hidden, key_heads * head])?,
                v_proj: attend("v_proj", Role::Value, [hidden, key_heads * head])?,
                o_proj: attend("o_proj", Role::AttentionOutput, [heads * head, hidden])?,
                attention_site: AttentionSite::default(),
                dimensions: config.dimensions(),
                dropout: config.attention_dropout,
            },
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: Mlp {
                gate_proj: feed("gate_proj", Role::Gate, [hidden, feed_forward])?,
                up_proj: feed("up_proj", Role::Up, [hidden, feed_forward])?,
                down_proj: feed("down_proj", Role::Down, [feed_forward, hidden])?,
            },
            block_site: BlockSite::default(),
        })
    }

    fn forward(
        &self,
        residual: Tensor<3>,
        rotary: &(Tensor<4>, Tensor<4>),
        padding: Option<&Tensor<2, Bool>>,
        context: &Context,
    ) -> Tensor<3> {
        let input = self.input_layernorm.forward(residual.clone());
        let output = self.self_attn.forward(input.clone(), rotary, padding, context);
        let residual = self.join(SubLayer::Attention, output, input, residual, context);

        let input = self.post_attention_layernorm.forward(residual.clone());
        let output = self.mlp.forward(input.clone(), context);
        self.join(SubLayer::FeedForward, output, input, residual, context)
    }

    /// The residual stream with a sub-layer's output added, after what methods do to it.
    fn join(
        &self,
        layer: SubLayer,
        output: Tensor<3>,
        input: Tensor<3>,
        residual: Tensor<3>,
        context: &Context,
    ) -> Tensor<3> {
        let sub_layer = SubLayerOutput { layer, output, input, residual: residual.clone(), norm_after: None };
        residual + self.block_site.apply(sub_layer, context)
    }
}

impl Attention {
    fn forward(
        &self,
        input: Tensor<3>,
        rotary: &(Tensor<4>, Tensor<4>),
        padding: Option<&Tensor<2, Bool>>,
        context: &Context,
    ) -> Tensor<3> {
        let [batch, length, _] = input.dims();
        let Dimensions { heads, key_heads, head, .. } = self.dimensions;
        let split = |x: Tensor<3>, heads| x.reshape([batch, length, heads, head]).swap_dims(1, 2);
        let query = split(self.q_proj.forward(input.clone(), context), heads);
        let keys = split(self.k_proj.forward(input.clone(), context), key_heads);
        let values = split(self.v_proj.forward(input, context), key_heads);
        let own = KeysValues { keys: Rotary::apply(keys, rotary), values };
        let mask = AttentionMask { causal: true, window: self.dimensions.window, padding: padding.cloned() };
        let query = Rotary::apply(query, rotary);
        let mixed = self.attention_site.attend(query, own, &mask, self.dropout, context);
        self.o_proj.forward(mixed.swap_dims(1, 2).reshape([batch, length, heads * head]), context)
    }
}

impl Mlp {
    /// SwiGLU (Shazeer 2020, arXiv 2002.05202).
    fn forward(&self, input: Tensor<3>, context: &Context) -> Tensor<3> {
        let gate = silu(self.gate_proj.forward(input.clone(), context));
        self.down_proj.forward(gate * self.up_proj.forward(input, context), context)
    }
}

impl Backbone for Llama {
    fn forward(&self, input: &ModelInput, context: &Context) -> Output {
        let hidden = self.model.forward(input, context);
        Output::Tokens(match &self.lm_head {
            Some(head) => head.forward(hidden, context),
            None => peftlab_ops::linear(hidden, self.model.embed_tokens.weight.val().transpose(), None),
        })
    }

    fn sites(&mut self) -> Sites<'_> {
        let LlamaModel { embedding_site, layers, rotary, .. } = &mut self.model;
        let (mut projections, mut attentions, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
        for Layer { self_attn, mlp, block_site, .. } in layers {
            let Attention { q_proj, k_proj, v_proj, o_proj, attention_site, .. } = self_attn;
            let Mlp { gate_proj, up_proj, down_proj } = mlp;
            projections.extend([q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]);
            attentions.push(attention_site);
            blocks.push(block_site);
        }
        projections.extend(&mut self.lm_head);
        Sites { embedding: embedding_site, projections, attentions, blocks, rotary: Some(rotary) }
    }

    fn dimensions(&self) -> Dimensions {
        self.model.dimensions
    }

    fn token_embeddings(&self) -> Tensor<2> {
        self.model.embed_tokens.weight.val()
    }

    /// A language model's output layer is part of what was pretrained, and stays frozen.
    fn is_head(&self, _: &str) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_names_of_the_activation_are_taken_and_no_other_function() {
        for (name, taken) in [("silu", true), ("swish", true), ("gelu", false)] {
            let config = json!({
                "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
                "vocab_size": 4, "max_position_embeddings": 8, "model_type": "llama", "hidden_act": name,
            });
            let config: LlamaConfig = serde_json::from_value(config).unwrap();
            assert_eq!(config.check().is_ok(), taken, "{name}");
        }
    }
}
