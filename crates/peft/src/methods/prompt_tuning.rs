use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use peftlab_layers::{Attached, Context, EmbeddingAdapter, Initializer, Model, ModelAdapter};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig};

/// Prompt tuning: trained vectors before the embeddings of the tokens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptTuning {
    /// l
    pub num_virtual_tokens: usize,
    /// How the vectors start.
    pub init: PromptInit,
}

/// How a prompt's vectors start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptInit {
    /// N(0, 1), PEFT's `RANDOM`.
    Random,
    /// Embeddings of tokens drawn from the vocabulary, PEFT's `SAMPLE_VOCAB`.
    SampleVocab,
}

impl Default for PromptTuning {
    fn default() -> Self {
        Self { num_virtual_tokens: 20, init: PromptInit::SampleVocab }
    }
}

/// The checks that all prompts share: some virtual tokens, and room for them and at least one more.
pub(super) fn check_length(num_virtual_tokens: usize, outline: &Outline) -> Result<(), NotApplicable> {
    let positions = outline.dimensions.positions;
    match num_virtual_tokens {
        0 => Err(NotApplicable::new(
            "num_virtual_tokens is 0, and there would be nothing to train; use 1 or more",
        )),
        count if count >= positions => Err(NotApplicable::new(format!(
            "num_virtual_tokens is {count}, but the model has {positions} positions; leave room for the tokens"
        ))),
        _ => Ok(()),
    }
}

impl Method for PromptTuning {
    const CARD: Card = Card {
        name: "prompt-tuning",
        title: "Prompt tuning",
        family: Family::Additive,
        paper: "Lester et al. 2021, arXiv 2104.08691",
        summary: "l trained vectors P are put before the embeddings of the tokens, E' = [P; E(x)]; mask, positions and \
                  labels follow.",
        identity: Identity::No,
        merge: MergeKind::No,
        not_for: "",
        settings: &[
            ("num_virtual_tokens", "20", "l"),
            (
                "init",
                "\"sample_vocab\"",
                "\"random\" for N(0, 1), or \"sample_vocab\" for embeddings of drawn tokens",
            ),
        ],
    };

    fn label(&self) -> String {
        format!("prompt-tuning l={}", self.num_virtual_tokens)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        check_length(self.num_virtual_tokens, outline)?;
        Ok(Count::all(self.num_virtual_tokens * outline.dimensions.hidden))
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
        let shape = [self.num_virtual_tokens, outline.dimensions.hidden];
        let weight = match self.init {
            PromptInit::Random => init.normal(1.0, shape),
            PromptInit::SampleVocab => {
                let ids = init.integers(outline.dimensions.vocabulary, shape[0]);
                let table = model.base_model.token_embeddings().detach();
                let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [shape[0]]), &table.device());
                init.values(table.select(0, ids).into_data().iter::<f32>().collect(), shape)
            }
        };
        let prompt = Prompt { prompt_encoder: PromptEncoder { embedding: Table { weight } } };
        model.adapters.push(Attached::new(Box::new(prompt)));
        model.sites().embedding.adapters.push(Attached::new(Box::new(PromptVectors {})));
        Ok(())
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        if !config.is("PROMPT_TUNING") {
            return Ok(None);
        }
        Ok(Some(Self { num_virtual_tokens: virtual_tokens(config)?, init: PromptInit::Random }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        let mut config = prompt_config("PROMPT_TUNING", self.num_virtual_tokens, outline);
        config["prompt_tuning_init"] = json!("RANDOM");
        Some(config)
    }
}

/// `num_virtual_tokens` of an `adapter_config.json`.
pub(super) fn virtual_tokens(config: &PeftConfig<'_>) -> Result<usize, NotApplicable> {
    // the network is asked for the sizes of vectors, and the file's tensor is compared with them
    for key in ["token_dim", "num_layers", "num_attention_heads"] {
        config.integer(key, 0)?;
    }
    if config.integer("num_transformer_submodules", 1)? > 1 {
        return Err(config.unsupported("num_transformer_submodules"));
    }
    match config.integer("num_virtual_tokens", 0)? {
        0 => Err(config.unsupported("num_virtual_tokens")),
        count => Ok(count),
    }
}

/// What PEFT's prompt methods have in common in `adapter_config.json`.
pub(super) fn prompt_config(kind: &str, num_virtual_tokens: usize, outline: &Outline) -> Value {
    json!({
        "peft_type": kind,
        "num_virtual_tokens": num_virtual_tokens,
        "num_transformer_submodules": 1,
        "num_layers": outline.dimensions.layers,
        "num_attention_heads": outline.dimensions.heads,
        "token_dim": outline.dimensions.hidden,
    })
}

/// A table as PEFT nests it.
#[derive(Module, Debug)]
pub(super) struct Table {
    pub(super) weight: Param<Tensor<2>>,
}

#[derive(Module, Debug)]
struct PromptEncoder {
    embedding: Table,
}

#[derive(Module, Debug)]
struct Prompt {
    prompt_encoder: PromptEncoder,
}

/// The vectors on their way to the embedding site, `[virtual tokens, hidden]`.
struct SharedPrompt(Tensor<2>);

impl ModelAdapter for Prompt {
    fn prepare(&self, context: &mut Context) {
        context.share(SharedPrompt(self.prompt_encoder.embedding.weight.val()));
    }
}

#[derive(Module, Debug)]
struct PromptVectors {}

impl EmbeddingAdapter for PromptVectors {
    fn vectors(&self, context: &Context) -> Tensor<2> {
        let SharedPrompt(vectors) = context.shared().expect("the prompt is attached with its site");
        vectors.clone()
    }
}
