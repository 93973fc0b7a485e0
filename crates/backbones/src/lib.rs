//! Networks, one file each, with the Hub's parameter names.
//!
//! A backbone is built from the contents of a Hub `config.json`; `model_type` there says which one. To add
//! one: write its file, and name it in [`BACKBONES`].

mod bert;
mod config;
mod llama;
mod roberta;
mod rope;

pub use bert::{Bert, BertConfig};
pub use llama::{Llama, LlamaConfig};
pub use roberta::Roberta;

use peftlab_layers::{Backbone, BuildError, Builder};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What a network is asked to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Logits of the next token.
    LanguageModel,
    /// Logits of `outputs` classes, or one value for regression.
    Sequence {
        /// Columns of the output.
        outputs: usize,
    },
}

/// A network that can be built.
pub struct BackboneCard {
    /// `model_type` in `config.json`.
    pub name: &'static str,
    /// `architectures` in `config.json` that it covers.
    pub architectures: &'static [&'static str],
    /// What it can give.
    pub heads: &'static str,
    /// Paper.
    pub paper: &'static str,
    /// Prefix of the base network's names, absent in the file of a bare base model.
    pub base_prefix: &'static str,
    /// Prefixes of the parameters of a head, which a checkpoint need not have.
    pub fresh: &'static [&'static str],
    /// The head's last module, whose outputs are the classes; empty where the head is the language model's.
    pub head_output: &'static str,
    /// Keys of `config.json` that the network reads.
    pub used: &'static [&'static str],
    defaults: fn() -> Value,
    build: Build,
}

type Build = fn(&Value, Head, &Builder<'_>) -> Result<Box<dyn Backbone>, BackboneError>;

/// Every backbone.
pub static BACKBONES: [BackboneCard; 4] = [
    BackboneCard {
        name: "llama",
        architectures: &["LlamaForCausalLM", "LlamaModel"],
        heads: "causal-lm",
        paper: "Touvron et al. 2023, arXiv 2302.13971",
        base_prefix: "model.",
        fresh: &[],
        head_output: "",
        used: &llama::KEYS,
        defaults: config::llama_defaults,
        build: |config, head, builder| llama::build(&parse(config)?, head, builder),
    },
    BackboneCard {
        name: "mistral",
        architectures: &["MistralForCausalLM", "MistralModel"],
        heads: "causal-lm",
        paper: "Jiang et al. 2023, arXiv 2310.06825",
        base_prefix: "model.",
        fresh: &[],
        head_output: "",
        used: &llama::MISTRAL_KEYS,
        defaults: config::mistral_defaults,
        build: |config, head, builder| llama::build(&parse(config)?, head, builder),
    },
    BackboneCard {
        name: "bert",
        architectures: &["BertForSequenceClassification", "BertModel"],
        heads: "sequence classification and regression",
        paper: "Devlin et al. 2018, arXiv 1810.04805",
        base_prefix: "bert.",
        fresh: &["classifier.", "bert.pooler."],
        head_output: "classifier",
        used: &bert::KEYS,
        defaults: config::bert_defaults,
        build: |config, head, builder| bert::build(&parse(config)?, head, builder),
    },
    BackboneCard {
        name: "roberta",
        architectures: &["RobertaForSequenceClassification", "RobertaModel"],
        heads: "sequence classification and regression",
        paper: "Liu et al. 2019, arXiv 1907.11692",
        base_prefix: "roberta.",
        fresh: &["classifier."],
        head_output: "classifier.out_proj",
        used: &bert::KEYS,
        defaults: config::roberta_defaults,
        build: |config, head, builder| roberta::build(&parse(config)?, head, builder),
    },
];

/// Why a backbone could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BackboneError {
    /// `config.json` lacks something, or has it in another form.
    #[error("config.json: {0}")]
    Config(String),
    /// The architecture is none that is known.
    #[error("config.json: model_type `{found}` is not one of those there are: {}", names())]
    Unknown {
        /// What `config.json` says.
        found: String,
    },
    /// The network has no such head.
    #[error("a `{backbone}` model (model_type in config.json) cannot do this task: it offers {offers}")]
    Head {
        /// The network.
        backbone: String,
        /// What it can do.
        offers: &'static str,
    },
    /// The parameters could not be had.
    #[error(transparent)]
    Build(#[from] BuildError),
}

fn names() -> String {
    BACKBONES.iter().map(|card| card.name).collect::<Vec<_>>().join(", ")
}

/// The card of the network that `config` describes.
///
/// # Errors
/// Where `model_type` is missing or not known.
pub fn card(config: &Value) -> Result<&'static BackboneCard, BackboneError> {
    let name = config["model_type"]
        .as_str()
        .ok_or_else(|| BackboneError::Config("the key `model_type` is missing".to_owned()))?;
    let unknown = || BackboneError::Unknown { found: name.to_owned() };
    BACKBONES.iter().find(|card| card.name == name).ok_or_else(unknown)
}

/// Builds the network that `config` describes.
///
/// # Errors
/// Where the configuration is not one, or the parameters cannot be had.
pub fn build(config: &Value, head: Head, builder: &Builder<'_>) -> Result<Box<dyn Backbone>, BackboneError> {
    let card = card(config)?;
    (card.build)(&card.with_defaults(config), head, builder)
}

fn parse<T: DeserializeOwned>(config: &Value) -> Result<T, BackboneError> {
    T::deserialize(config).map_err(|error| BackboneError::Config(error.to_string()))
}
