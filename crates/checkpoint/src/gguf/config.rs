//! The metadata in the form of a Hub `config.json`, with llama.cpp's meaning where a key is absent
//! (`src/llama-model.cpp`, `llama_model::load_hparams`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::keys::short;
use super::{Gguf, GgufValue, rope};
use crate::{CheckpointError, TensorSource};

/// llama.cpp's numbers are of 32 bits; a larger one is no size of anything.
const LARGEST: i64 = u32::MAX as i64;

const WINDOW: &str = "llama.attention.sliding_window";

impl Gguf {
    /// The metadata in the form of a Hub `config.json`.
    ///
    /// # Errors
    /// Where a number is missing, or does not fit the tensors.
    pub fn config(&self) -> Result<Value, CheckpointError> {
        let sizes = Sizes::read(self)?;
        sizes.check(self)?;
        let mut config = json!({
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.feed_forward,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.key_heads,
            "head_dim": sizes.head,
            "vocab_size": sizes.vocabulary,
            "max_position_embeddings": sizes.context,
            "rms_norm_eps": self.float("llama.attention.layer_norm_rms_epsilon")?.ok_or_else(|| {
                self.refuse("the metadata lacks the number `llama.attention.layer_norm_rms_epsilon`")
            })?,
            "rope_theta": self.float("llama.rope.freq_base")?.unwrap_or(10_000.0),
            "tie_word_embeddings": !self.has("lm_head.weight"),
            "attention_bias": self.biased(sizes.layers, "self_attn", &["q_proj", "k_proj", "v_proj", "o_proj"])?,
            "mlp_bias": self.biased(sizes.layers, "mlp", &["gate_proj", "up_proj", "down_proj"])?,
            "hidden_act": "silu",
        });
        if let Some(scaling) = rope::scaling(self, sizes.head, sizes.context)? {
            config["rope_scaling"] = scaling;
        }
        if let Some(window) = self.window()? {
            // LLaMA has no window; Mistral is LLaMA with one
            config["model_type"] = "mistral".into();
            config["architectures"] = json!(["MistralForCausalLM"]);
            config["sliding_window"] = window.into();
        }
        for (ours, theirs) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding")] {
            if let Some(id) = self.token_id(theirs)? {
                config[format!("{ours}_token_id")] = id.into();
            }
        }
        Ok(config)
    }

    /// A window that hides something from a text of the context's length.
    fn window(&self) -> Result<Option<usize>, CheckpointError> {
        let (window, context) = (self.integer(WINDOW)?, self.integer("llama.context_length")?);
        Ok(window.filter(|window| *window > 0 && context.is_some_and(|context| *window < context)))
    }

    /// What a reader of the numbers should know of the window.
    pub(super) fn window_warning(&self) -> Option<String> {
        let window = self.window().ok()??;
        Some(format!(
            "`{WINDOW}` = {window} is followed, as Mistral means it: no token sees one that is {window} or more before it; \
             llama.cpp does not read that key of `llama` networks, and gives other numbers for longer texts"
        ))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A number that is no less than zero.
    pub(super) fn integer(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Integer(value)) if (0..=LARGEST).contains(value) => Ok(Some(*value as usize)),
            Some(other) => Err(self.refuse(&format!("`{key}` is {}, no size", short(other)))),
        }
    }

    /// A number that every layer has; llama.cpp takes one for each layer, too.
    fn for_all_layers(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        let Some(GgufValue::Integers(values)) = self.get(key) else { return self.integer(key) };
        if self.integer("llama.block_count")?.is_some_and(|layers| values.len() < layers) {
            return Err(self.refuse(&format!(
                "`{key}` has {} values, fewer than the layers there are (`llama.block_count`)",
                values.len()
            )));
        }
        match &values[..] {
            [first, rest @ ..] if (0..=LARGEST).contains(first) && rest.iter().all(|value| value == first) => {
                Ok(Some(*first as usize))
            }
            _ => Err(self.refuse(&format!(
                "`{key}` differs from layer to layer ({values:?}); only networks with layers of one kind can be read"
            ))),
        }
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Float(value)) if value.is_finite() => Ok(Some(*value)),
            Some(other) => Err(self.refuse(&format!("`{key}` is {}, no finite float", short(other)))),
        }
    }

    fn needed(&self, key: &str, value: Option<usize>) -> Result<usize, CheckpointError> {
        value
            .filter(|value| *value > 0)
            .ok_or_else(|| self.refuse(&format!("the metadata lacks the number `{key}`, or it is 0")))
    }

    /// Whether the projections have biases: all of them, or none.
    fn biased(&self, layers: usize, block: &str, projections: &[&str]) -> Result<bool, CheckpointError> {
        let names: Vec<String> = (0..layers)
            .flat_map(|layer| {
                projections.iter().map(move |name| format!("model.layers.{layer}.{block}.{name}.bias"))
            })
            .collect();
        let (present, absent): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| self.has(name));
        match (present.first(), absent.first()) {
            (Some(present), Some(absent)) => Err(self.refuse(&format!(
                "has the tensor `{present}`, but not `{absent}`: LLaMA has biases in all of them or in none"
            ))),
            (present, _) => Ok(present.is_some()),
        }
    }
}

/// The network's sizes.
struct Sizes {
    hidden: usize,
    feed_forward: usize,
    layers: usize,
    heads: usize,
    key_heads: usize,
    head: usize,
    vocabulary: usize,
    context: usize,
}

impl Sizes {
    fn read(gguf: &Gguf) -> Result<Self, CheckpointError> {
        let key = |name: &str| format!("llama.{name}");
        let size = |name: &str| gguf.needed(&key(name), gguf.integer(&key(name))?);
        let (hidden, heads) = (size("embedding_length")?, gguf.for_all_layers(&key("attention.head_count"))?);
        let heads = gguf.needed(&key("attention.head_count"), heads)?;
        let key_heads = gguf.for_all_layers(&key("attention.head_count_kv"))?;
        let even = hidden / heads;
        let head = gguf.integer(&key("attention.key_length"))?.unwrap_or(even);
        for (name, absent) in [("attention.value_length", even), ("rope.dimension_count", head)] {
            let found = gguf.integer(&key(name))?.unwrap_or(absent);
            if found != head {
                let name = key(name);
                return Err(gguf.refuse(&format!(
                    "`{name}` is {found}, but keys are {head} wide (`llama.attention.key_length`); heads with parts that \
                     differ, or that are turned in part, are not implemented"
                )));
            }
        }
        let rows = gguf.info("model.embed_tokens.weight").and_then(|info| info.shape.first().copied());
        Ok(Self {
            hidden,
            feed_forward: gguf
                .needed(&key("feed_forward_length"), gguf.for_all_layers(&key("feed_forward_length"))?)?,
            layers: size("block_count")?,
            heads,
            key_heads: gguf.needed(&key("attention.head_count_kv"), Some(key_heads.unwrap_or(heads)))?,
            head,
            vocabulary: rows.ok_or_else(|| gguf.refuse("lacks the tensor `token_embd.weight`"))?,
            context: size("context_length")?,
        })
    }

    /// Whether the file holds what the numbers say: nothing is allocated for a number alone.
    fn check(&self, gguf: &Gguf) -> Result<(), CheckpointError> {
        let layers: BTreeSet<usize> = gguf
            .tensors
            .keys()
            .filter_map(|name| name.strip_prefix("model.layers.")?.split_once('.')?.0.parse().ok())
            .collect();
        let (held, last) = (layers.len(), layers.last().map_or(0, |last| last + 1));
        if held != self.layers || last != self.layers {
            return Err(gguf.refuse(&format!(
                "`llama.block_count` is {}, but the file has tensors of {held} layers, the last of them number {}; \
                 it is not complete, or of another network",
                self.layers,
                last.saturating_sub(1)
            )));
        }
        if let Some(claimed) = gguf.integer("llama.vocab_size")?
            && claimed != self.vocabulary
        {
            return Err(gguf.refuse(&format!(
                "`llama.vocab_size` is {claimed}, but `token_embd.weight` has {} rows",
                self.vocabulary
            )));
        }
        let (query, keys) = (self.heads * self.head, self.key_heads * self.head);
        let wanted = [
            ("model.embed_tokens.weight", "llama.embedding_length", vec![self.vocabulary, self.hidden]),
            (
                "model.layers.0.self_attn.q_proj.weight",
                "llama.attention.head_count",
                vec![query, self.hidden],
            ),
            (
                "model.layers.0.self_attn.k_proj.weight",
                "llama.attention.head_count_kv",
                vec![keys, self.hidden],
            ),
            (
                "model.layers.0.mlp.up_proj.weight",
                "llama.feed_forward_length",
                vec![self.feed_forward, self.hidden],
            ),
        ];
        for (name, key, shape) in wanted {
            let found = gguf.info(name).map(|info| info.shape).unwrap_or_default();
            if found != shape {
                return Err(gguf.refuse(&format!(
                    "`{key}` wants a tensor `{name}` of {shape:?}, the file has {found:?}"
                )));
            }
        }
        Ok(())
    }
}
