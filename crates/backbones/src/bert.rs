//! BERT (Devlin et al. 2018, arXiv 1810.04805) for sequence classification and regression.

#![allow(non_snake_case, reason = "fields are named as on the Hub")]

use burn::module::Module;
use burn::tensor::activation::{gelu, gelu_approximate, relu, silu};
use burn::tensor::{Bool, Int, Tensor};
use peftlab_layers::{
    AttentionMask, AttentionSite, Backbone, BlockSite, Builder, Context, Dimensions, Embedding,
    EmbeddingSite, KeysValues, LayerNorm, ModelInput, Output, Projection, Role, Sites, SubLayer,
    SubLayerOutput,
};
use serde::Deserialize;

use crate::config::{check_dropout, check_sizes};
use crate::{BackboneError, Head};

/// The keys of a Hub `config.json` that [`BertConfig`] reads.
pub(crate) const KEYS: [&str; 15] = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "pad_token_id",
    "position_embedding_type",
    // the language model's head, which no task here has
    "tie_word_embeddings",
];

/// The keys of a Hub `config.json` that matter to the network. RoBERTa's are the same.
#[derive(Clone, Debug, Deserialize)]
pub struct BertConfig {
    pub(crate) model_type: String,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) vocab_size: usize,
    pub(crate) max_position_embeddings: usize,
    pub(crate) type_vocab_size: usize,
    #[serde(default = "default_epsilon")]
    pub(crate) layer_norm_eps: f64,
    #[serde(default)]
    pub(crate) hidden_act: Activation,
    #[serde(default = "default_dropout")]
    pub(crate) hidden_dropout_prob: f64,
    #[serde(default = "default_dropout")]
    pub(crate) attention_probs_dropout_prob: f64,
    pub(crate) classifier_dropout: Option<f64>,
    pub(crate) pad_token_id: Option<i64>,
    position_embedding_type: Option<String>,
}

fn default_epsilon() -> f64 {
    1e-12
}

fn default_dropout() -> f64 {
    0.1
}

/// Activation functions by the Hub's names.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Activation {
    /// With the error function.
    #[default]
    Gelu,
    /// The tanh approximation.
    #[serde(alias = "gelu_pytorch_tanh", alias = "gelu_fast")]
    GeluNew,
    /// Rectifier.
    Relu,
    /// x sigmoid(x), also called swish.
    #[serde(alias = "swish")]
    Silu,
}

impl Activation {
    fn apply(self, input: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Gelu => gelu(input),
            Self::GeluNew => gelu_approximate(input),
            Self::Relu => relu(input),
            Self::Silu => silu(input),
        }
    }
}

/// Segments of which no network has more.
const MOST_SEGMENTS: usize = 1 << 16;

impl BertConfig {
    pub(crate) fn dimensions(&self) -> Dimensions {
        Dimensions {
            layers: self.num_hidden_layers,
            hidden: self.hidden_size,
            feed_forward: self.intermediate_size,
            heads: self.num_attention_heads,
            key_heads: self.num_attention_heads,
            head: self.hidden_size / self.num_attention_heads.max(1),
            vocabulary: self.vocab_size,
            positions: self.max_position_embeddings,
            window: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), BackboneError> {
        check_sizes(&self.dimensions())?;
        check_dropout(&[
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout()),
        ])?;
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        if heads == 0 || !hidden.is_multiple_of(heads) {
            return Err(BackboneError::Config(format!(
                "hidden_size ({hidden}) must be a multiple of num_attention_heads ({heads})"
            )));
        }
        let types = self.type_vocab_size;
        if types == 0 || types > MOST_SEGMENTS {
            return Err(BackboneError::Config(format!(
                "`type_vocab_size` is {types}; it must be from 1 to {MOST_SEGMENTS}"
            )));
        }
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => Ok(()),
            Some(other) => Err(BackboneError::Config(format!(
                "position_embedding_type `{other}` is not supported; there is `absolute`"
            ))),
        }
    }

    pub(crate) fn head_outputs(&self, head: Head) -> Result<usize, BackboneError> {
        match head {
            Head::Sequence { outputs } => Ok(outputs),
            Head::LanguageModel => Err(BackboneError::Head {
                backbone: self.model_type.clone(),
                offers: "sequence classification and regression",
            }),
        }
    }

    pub(crate) fn classifier_dropout(&self) -> f64 {
        self.classifier_dropout.unwrap_or(self.hidden_dropout_prob)
    }
}

/// `BertForSequenceClassification`.
#[derive(Module, Debug)]
pub struct Bert {
    bert: BertModel,
    classifier: Projection,
    #[module(skip)]
    dropout: f64,
}

#[derive(Module, Debug)]
struct BertModel {
    embeddings: Embeddings,
    encoder: Encoder,
    pooler: Pooler,
}

/// Token, position and segment embeddings, and their norm.
#[derive(Module, Debug)]
pub(crate) struct Embeddings {
    pub(crate) word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    LayerNorm: LayerNorm,
    embedding_site: EmbeddingSite,
    #[module(skip)]
    dropout: f64,
}

/// The stack of blocks.
#[derive(Module, Debug)]
pub(crate) struct Encoder {
    layer: Vec<Layer>,
    #[module(skip)]
    pub(crate) dimensions: Dimensions,
}

#[derive(Module, Debug)]
struct Layer {
    attention: Attention,
    intermediate: Intermediate,
    output: SubLayerEnd,
    block_site: BlockSite,
    #[module(skip)]
    activation: Activation,
}

#[derive(Module, Debug)]
struct Attention {
    /// `self` on the Hub.
    self_: SelfAttention,
    output: SubLayerEnd,
}

#[derive(Module, Debug)]
struct SelfAttention {
    query: Projection,
    key: Projection,
    value: Projection,
    attention_site: AttentionSite,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    dropout: f64,
}

#[derive(Module, Debug)]
struct Intermediate {
    dense: Projection,
}

/// The end of a sub-layer: its last projection, dropout, the residual, and the norm after it.
#[derive(Module, Debug)]
struct SubLayerEnd {
    dense: Projection,
    LayerNorm: LayerNorm,
    #[module(skip)]
    dropout: f64,
}

#[derive(Module, Debug)]
struct Pooler {
    dense: Projection,
}

pub(crate) fn build(
    config: &BertConfig,
    head: Head,
    builder: &Builder<'_>,
) -> Result<Box<dyn Backbone>, BackboneError> {
    Ok(Box::new(Bert::new(config, config.head_outputs(head)?, builder)?))
}

impl Bert {
    /// Builds the network with a head of `outputs` columns; every parameter is frozen.
    ///
    /// # Errors
    /// Where the configuration is not one, or a parameter cannot be had.
    pub fn new(config: &BertConfig, outputs: usize, builder: &Builder<'_>) -> Result<Self, BackboneError> {
        config.check()?;
        let hidden = config.hidden_size;
        let base = builder.at("bert");
        let pooler = base.at("pooler").at("dense").projection(Role::Head, [hidden, hidden], true)?;
        Ok(Self {
            bert: BertModel {
                embeddings: Embeddings::new(config, None, &base.at("embeddings"))?,
                encoder: Encoder::new(config, &base.at("encoder"))?,
                pooler: Pooler { dense: pooler },
            },
            classifier: builder.at("classifier").projection(Role::Head, [hidden, outputs], true)?,
            dropout: config.classifier_dropout(),
        })
    }

    /// Hidden states of the last block, `[batch, virtual + length, hidden]`.
    pub fn hidden_states(&self, input: &ModelInput, context: &Context) -> Tensor<3> {
        let [batch, length] = input.input_ids.dims();
        let start = context.position_offset() as i64;
        let positions = |count: usize| {
            let device = input.input_ids.device();
            Tensor::<1, Int>::arange(start..start + count as i64, &device)
                .reshape([1, count])
                .expand([batch, count])
        };
        let embedded = self.bert.embeddings.forward(input, |added| positions(added + length), context);
        self.bert.encoder.forward(embedded, context)
    }
}

/// Vectors for the network, with the padding that goes with them.
pub(crate) struct Embedded {
    hidden: Tensor<3>,
    padding: Option<Tensor<2, Bool>>,
}

impl Embeddings {
    /// `padded_position` is the position that padding has, where it has one of its own.
    pub(crate) fn new(
        config: &BertConfig,
        padded_position: Option<i64>,
        builder: &Builder<'_>,
    ) -> Result<Self, BackboneError> {
        let table = |name, entries, padding| builder.at(name).embedding(entries, config.hidden_size, padding);
        Ok(Self {
            word_embeddings: table("word_embeddings", config.vocab_size, config.pad_token_id)?,
            position_embeddings: table(
                "position_embeddings",
                config.max_position_embeddings,
                padded_position,
            )?,
            token_type_embeddings: table("token_type_embeddings", config.type_vocab_size, None)?,
            LayerNorm: builder.at("LayerNorm").layer_norm(config.hidden_size, config.layer_norm_eps)?,
            embedding_site: EmbeddingSite::default(),
            dropout: config.hidden_dropout_prob,
        })
    }

    /// `positions` gives the position ids, `[batch, added + length]`, from the number of vectors that methods
    /// put in front.
    pub(crate) fn forward(
        &self,
        input: &ModelInput,
        positions: impl FnOnce(usize) -> Tensor<2, Int>,
        context: &Context,
    ) -> Embedded {
        let [batch, length] = input.input_ids.dims();
        let words = self.word_embeddings.forward(input.input_ids.clone());
        let (words, padding, added) = self.embedding_site.apply(words, input.padding.clone(), context);
        let device = input.input_ids.device();
        let mut segments =
            input.token_type_ids.clone().unwrap_or_else(|| Tensor::zeros([batch, length], &device));
        if added > 0 {
            segments = Tensor::cat(vec![Tensor::zeros([batch, added], &device), segments], 1);
        }
        let hidden = words
            + self.token_type_embeddings.forward(segments)
            + self.position_embeddings.forward(positions(added));
        Embedded { hidden: context.dropout(self.LayerNorm.forward(hidden), self.dropout), padding }
    }
}

impl Encoder {
    pub(crate) fn new(config: &BertConfig, builder: &Builder<'_>) -> Result<Self, BackboneError> {
        let layers = builder.at("layer");
        let layer = (0..config.num_hidden_layers).map(|i| Layer::new(config, &layers.at(i)));
        Ok(Self { layer: layer.collect::<Result<_, _>>()?, dimensions: config.dimensions() })
    }

    pub(crate) fn forward(&self, embedded: Embedded, context: &Context) -> Tensor<3> {
        let Embedded { mut hidden, padding } = embedded;
        for layer in &self.layer {
            hidden = layer.forward(hidden, padding.as_ref(), context);
        }
        hidden
    }
}

/// Every site of the network; `head` are the projections after the encoder.
pub(crate) fn sites<'a>(
    embeddings: &'a mut Embeddings,
    encoder: &'a mut Encoder,
    head: Vec<&'a mut Projection>,
) -> Sites<'a> {
    let (mut projections, mut attentions, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
    for Layer { attention, intermediate, output, block_site, .. } in &mut encoder.layer {
        let SelfAttention { query, key, value, attention_site, .. } = &mut attention.self_;
        projections.extend([query, key, value, &mut attention.output.dense]);
        projections.extend([&mut intermediate.dense, &mut output.dense]);
        attentions.push(attention_site);
        blocks.push(block_site);
    }
    projections.extend(head);
    Sites { embedding: &mut embeddings.embedding_site, projections, attentions, blocks, rotary: None }
}

impl Layer {
    fn new(config: &BertConfig, builder: &Builder<'_>) -> Result<Self, BackboneError> {
        let (hidden, feed_forward) = (config.hidden_size, config.intermediate_size);
        let attention = builder.at("attention");
        let attend = |name, role| attention.at("self").at(name).projection(role, [hidden, hidden], true);
        let up = builder.at("intermediate").at("dense").projection(Role::Up, [hidden, feed_forward], true)?;
        Ok(Self {
            attention: Attention {
                self_: SelfAttention {
                    query: attend("query", Role::Query)?,
                    key: attend("key", Role::Key)?,
                    value: attend("value", Role::Value)?,
                    attention_site: AttentionSite::default(),
                    heads: config.num_attention_heads,
                    dropout: config.attention_probs_dropout_prob,
                },
                output: SubLayerEnd::new(config, Role::AttentionOutput, hidden, &attention.at("output"))?,
            },
            intermediate: Intermediate { dense: up },
            output: SubLayerEnd::new(config, Role::Down, feed_forward, &builder.at("output"))?,
            block_site: BlockSite::default(),
            activation: config.hidden_act,
        })
    }

    fn forward(&self, hidden: Tensor<3>, padding: Option<&Tensor<2, Bool>>, context: &Context) -> Tensor<3> {
        let mixed = self.attention.self_.forward(hidden.clone(), padding, context);
        let hidden =
            self.attention.output.forward(mixed, hidden, SubLayer::Attention, &self.block_site, context);
        let wide = self.activation.apply(self.intermediate.dense.forward(hidden.clone(), context));
        self.output.forward(wide, hidden, SubLayer::FeedForward, &self.block_site, context)
    }
}

impl SelfAttention {
    fn forward(&self, input: Tensor<3>, padding: Option<&Tensor<2, Bool>>, context: &Context) -> Tensor<3> {
        let [batch, length, hidden] = input.dims();
        let split =
            |x: Tensor<3>| x.reshape([batch, length, self.heads, hidden / self.heads]).swap_dims(1, 2);
        let query = split(self.query.forward(input.clone(), context));
        let keys = split(self.key.forward(input.clone(), context));
        let values = split(self.value.forward(input, context));
        let mask = AttentionMask { causal: false, window: None, padding: padding.cloned() };
        let own = KeysValues { keys, values };
        let mixed = self.attention_site.attend(query, own, &mask, self.dropout, context);
        mixed.swap_dims(1, 2).reshape([batch, length, hidden])
    }
}

impl SubLayerEnd {
    fn new(
        config: &BertConfig,
        role: Role,
        input: usize,
        builder: &Builder<'_>,
    ) -> Result<Self, BackboneError> {
        let hidden = config.hidden_size;
        Ok(Self {
            dense: builder.at("dense").projection(role, [input, hidden], true)?,
            LayerNorm: builder.at("LayerNorm").layer_norm(hidden, config.layer_norm_eps)?,
            dropout: config.hidden_dropout_prob,
        })
    }

    /// `inner` is what `dense` reads, `residual` what the whole sub-layer read.
    fn forward(
        &self,
        inner: Tensor<3>,
        residual: Tensor<3>,
        layer: SubLayer,
        site: &BlockSite,
        context: &Context,
    ) -> Tensor<3> {
        let output = context.dropout(self.dense.forward(inner, context), self.dropout);
        let (input, norm_after) = (residual.clone(), Some(&self.LayerNorm));
        let sub_layer = SubLayerOutput { layer, output, input, residual: residual.clone(), norm_after };
        self.LayerNorm.forward(site.apply(sub_layer, context) + residual)
    }
}

impl Backbone for Bert {
    fn forward(&self, input: &ModelInput, context: &Context) -> Output {
        let hidden = self.hidden_states(input, context);
        let [batch, _, width] = hidden.dims();
        let first = hidden.slice([0..batch, 0..1, 0..width]);
        let pooled = self.bert.pooler.dense.forward(first, context).tanh();
        let logits = self.classifier.forward(context.dropout(pooled, self.dropout), context);
        Output::Sequence(logits.squeeze_dim(1))
    }

    fn sites(&mut self) -> Sites<'_> {
        let BertModel { embeddings, encoder, pooler } = &mut self.bert;
        sites(embeddings, encoder, vec![&mut pooler.dense, &mut self.classifier])
    }

    fn dimensions(&self) -> Dimensions {
        self.bert.encoder.dimensions
    }

    fn token_embeddings(&self) -> Tensor<2> {
        self.bert.embeddings.word_embeddings.weight.val()
    }

    fn is_head(&self, parameter: &str) -> bool {
        parameter.starts_with("classifier.")
    }
}
