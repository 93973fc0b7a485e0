//! What a `config.json` may say. Every key is used, known not to matter to the logits, or told; one that asks for
//! another network than there is here is refused by its name.

use peftlab_layers::Dimensions;
use serde_json::{Map, Value, json};

use crate::{BackboneCard, BackboneError, rope};

/// Keys that no forward pass reads: what `transformers`' `PreTrainedConfig` keeps besides the network's own
/// (`configuration_utils.py`, 4.x and 5.x), and what files of the Hub have of other programs.
const HARMLESS: &[&str] = &[
    // about the file
    "architectures",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_flash_attn_2_enabled",
    "gradient_checkpointing",
    "initializer_range",
    "language",
    "license",
    "finetuning_task",
    "task_specific_params",
    "tokenizer_class",
    "unsloth_fixed",
    "unsloth_version",
    "transformers.js_config",
    "is_llama_config",
    // what is returned, not what is computed
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "torchscript",
    "use_bfloat16",
    "use_cache",
    "chunk_size_feed_forward",
    "tf_legacy_loss",
    "cross_attention_hidden_size",
    // the task's, which an experiment names
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "bos_token_id",
    "eos_token_id",
    "sep_token_id",
    "cls_token_id",
    "mask_token_id",
    "unk_token_id",
    "decoder_start_token_id",
    "prefix",
    // generation
    "max_length",
    "max_new_tokens",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "output_scores",
    "return_dict_in_generate",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    // BERT's first files, of a pooler that nobody ever built otherwise
    "directionality",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    // LLaMA's products in slices: the same sums
    "pretraining_tp",
];

/// Keys among these that something else here reads: which token ends a text, and what the head was made for.
const FOLLOWED: [&str; 6] =
    ["architectures", "model_type", "id2label", "label2id", "problem_type", "eos_token_id"];

/// Keys that change the logits of some network; each may stand with a value that changes nothing ([`is_neutral`]).
const CHANGES: &[&str] = &[
    "is_decoder",
    "is_encoder_decoder",
    "add_cross_attention",
    "tie_encoder_decoder",
    "pruned_heads",
    "quantization_config",
    "compression_config",
    "sliding_window",
    "use_sliding_window",
    "embedding_size",
    "attention_multiplier",
    "logits_scaling",
    "logit_scale",
    "residual_multiplier",
    "embedding_multiplier",
    "scale_embeddings",
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "query_pre_attn_scalar",
    "use_qk_norm",
    "qk_norm",
    "qk_layernorm",
    "use_qkv_bias",
    "qkv_bias",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "num_experts_per_tok",
    "clip_qkv",
    "alibi",
    "parallel_residual",
    "use_parallel_residual",
    "no_rope_layers",
    "layer_types",
    "rope_interleaved",
    "attn_temperature_tuning",
    "use_bidirectional_attention",
    "is_causal",
    "attention_type",
    "layer_norm_type",
    "norm_type",
    "mup_base",
];

/// Names that say "as usual" of the keys above.
const NEUTRAL: [&str; 4] = ["absolute", "full_attention", "rms_norm", "rmsnorm"];

/// Factors among the keys above, which ask for nothing when they are one.
const FACTORS: [&str; 4] = ["logits_scaling", "logit_scale", "residual_multiplier", "embedding_multiplier"];

/// Whether the value of `key` asks for nothing: null, false, empty, zero, a factor of one, a count of one, or one of
/// [`NEUTRAL`].
fn is_neutral(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) if FACTORS.contains(&key) => number.as_f64() == Some(1.0),
        // per layer one where positions are rotated
        Value::Number(number) if key.starts_with("num_") || key == "no_rope_layers" => {
            number.as_f64().is_some_and(|count| count <= 1.0)
        }
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || NEUTRAL.contains(&text.as_str()),
        Value::Array(values) => values.iter().all(|value| is_neutral(key, value)),
        Value::Object(values) => values.is_empty(),
    }
}

impl BackboneCard {
    /// `config` with what `transformers` assumes where a key is absent.
    #[must_use]
    pub fn with_defaults(&self, config: &Value) -> Value {
        let mut config = config.clone();
        if let (Some(config), Value::Object(defaults)) = (config.as_object_mut(), (self.defaults)()) {
            for (key, value) in defaults {
                config.entry(key).or_insert(value);
            }
        }
        config
    }

    /// What a reader should know of `config`; `changes` are the keys that the user set.
    ///
    /// # Errors
    /// Where a key asks for a network that is not implemented, or the user set one that there is not.
    pub fn check(&self, config: &Value, changes: &Map<String, Value>) -> Result<Vec<String>, BackboneError> {
        let Some(keys) = config.as_object() else {
            return Err(BackboneError::Config("is no JSON object".to_owned()));
        };
        let used = |key: &str| self.used.contains(&key);
        if let Some(key) = changes.keys().find(|key| !used(key) && !keys_known(key)) {
            return Err(BackboneError::Config(format!(
                "config = {{ {key} = .. }} in [model]: a `{}` network has no such key; there are {}",
                self.name,
                self.used.join(", ")
            )));
        }
        let idle = |key: &&String| HARMLESS.contains(&key.as_str()) && !FOLLOWED.contains(&key.as_str());
        if let Some(key) = changes.keys().find(idle) {
            return Err(BackboneError::Config(format!(
                "config = {{ {key} = .. }} in [model]: nothing here reads that key; leave it out (weights and \
                 activations are of [model]'s own dtype)"
            )));
        }
        if let Some(said) = rope::unread(config, changes) {
            return Err(BackboneError::Config(said));
        }
        let mut unknown = Vec::new();
        for (key, value) in keys.iter().filter(|(key, _)| !used(key)) {
            if key == "is_causal" && value.is_boolean() {
                // `transformers` hides later tokens, or does not, as it says: whatever the network is
                match *value == json!(self.is_causal()) {
                    true => continue,
                    false => {
                        return Err(BackboneError::Config(format!(
                            "`is_causal` = {value} asks for a network that is not implemented"
                        )));
                    }
                }
            }
            if let Some(said) = refusal(key, value, keys) {
                return Err(BackboneError::Config(said));
            }
            if !keys_known(key) && !is_neutral(key, value) {
                unknown.push(key.as_str());
            }
        }
        let mut told: Vec<String> = self.own_code(config).into_iter().chain(no_padding(config)).collect();
        if !unknown.is_empty() {
            told.push(format!(
                "config.json: {} {} not read, for no `{}` network has such a key",
                unknown.join(", "),
                if unknown.len() == 1 { "is" } else { "are" },
                self.name
            ));
        }
        Ok(told)
    }
}

impl BackboneCard {
    /// Whether no token sees a later one.
    fn is_causal(&self) -> bool {
        self.head_output.is_empty()
    }

    /// A sentence where a repository brings code of its own, which may compute anything.
    fn own_code(&self, config: &Value) -> Option<String> {
        let classes = config["auto_map"].as_object()?.values().filter_map(Value::as_str);
        let classes: Vec<&str> = classes.collect();
        (!classes.is_empty()).then(|| {
            format!(
                "config.json: auto_map names code of the repository's own ({}), which is not run: the network is the \
                 `{}` of transformers",
                classes.join(", "),
                self.name
            )
        })
    }
}

/// A sentence where the token that stands for padding is none of the vocabulary's.
fn no_padding(config: &Value) -> Option<String> {
    let (id, size) = (config["pad_token_id"].as_i64()?, config["vocab_size"].as_i64()?);
    (!(0..size).contains(&id)).then(|| {
        format!(
            "config.json: pad_token_id = {id} is no token of the {size} in the vocabulary and stands for none; where the \
             table of tokens is trained, transformers takes -1 for its last row, which it leaves as it is"
        )
    })
}

fn keys_known(key: &str) -> bool {
    HARMLESS.contains(&key) || CHANGES.contains(&key)
}

/// Why `key`, which this network does not use, cannot be passed over; none where it can.
fn refusal(key: &str, value: &Value, config: &Map<String, Value>) -> Option<String> {
    if !CHANGES.contains(&key) {
        return None;
    }
    // per layer 1 where positions are rotated: all ones is LLaMA
    if key == "no_rope_layers" && value.as_array().is_some_and(|layers| layers.contains(&json!(0))) {
        return Some("`no_rope_layers`: layers without rotary positions are not implemented".to_owned());
    }
    // a table of vectors as wide as the network is no other network
    if is_neutral(key, value) || key == "embedding_size" && Some(value) == config.get("hidden_size") {
        return None;
    }
    Some(match key {
        "quantization_config" => format!(
            "`quantization_config` ({}): weights that are stored packed are not read; use the checkpoint they were made \
             from, with `qlora` for a base in four bits",
            value["quant_method"].as_str().unwrap_or("of an unknown method")
        ),
        _ => format!("`{key}` = {value} asks for a network that is not implemented"),
    })
}

/// The most of all layers' widths together, and of weights: more than a hundred times what the largest networks have.
const MOST_WIDTHS: usize = 1 << 28;
const MOST_WEIGHTS: usize = 1 << 46;

/// Refuses sizes beyond those of any network: a file could ask for any amount of memory with them.
pub(crate) fn check_sizes(dimensions: &Dimensions) -> Result<(), BackboneError> {
    let &Dimensions { layers, hidden, feed_forward, heads, key_heads, head, vocabulary, positions, .. } =
        dimensions;
    let limits = [
        ("num_hidden_layers", layers, 1 << 12),
        ("hidden_size", hidden, 1 << 20),
        ("intermediate_size", feed_forward, 1 << 22),
        ("num_attention_heads", heads, 1 << 14),
        ("num_key_value_heads", key_heads, 1 << 14),
        ("head_dim", head, 1 << 14),
        ("vocab_size", vocabulary, 1 << 26),
        ("max_position_embeddings", positions, 1 << 30),
    ];
    let wrong = limits.into_iter().find(|(_, value, limit)| value > limit || *value == 0);
    if let Some((key, value, limit)) = wrong {
        return Err(BackboneError::Config(format!("`{key}` is {value}; it must be from 1 to {limit}")));
    }
    // each of them is no larger than some network's, and together they may be larger than any: what methods count from
    // them stays within a machine's numbers
    let attention = (heads + 2 * key_heads) * head;
    let widths = layers * (hidden + feed_forward + attention);
    let weights = layers * hidden * (attention + 3 * feed_forward) + vocabulary * hidden;
    match widths > MOST_WIDTHS || weights > MOST_WEIGHTS {
        true => Err(BackboneError::Config(format!(
            "`num_hidden_layers` = {layers}, `hidden_size` = {hidden}, `intermediate_size` = {feed_forward} and \
             `vocab_size` = {vocabulary} make a network of {weights} weights, larger than any there is; mend the sizes"
        ))),
        false => Ok(()),
    }
}

/// Refuses dropout probabilities, given with their keys, that are none or that leave nothing.
pub(crate) fn check_dropout(shares: &[(&str, f64)]) -> Result<(), BackboneError> {
    match shares.iter().find(|(_, share)| !(0.0..1.0).contains(share)) {
        Some((key, share)) => {
            Err(BackboneError::Config(format!("`{key}` is {share}; it must be from 0 to below 1")))
        }
        None => Ok(()),
    }
}

/// `BertConfig`'s defaults in `transformers`.
pub(crate) fn bert_defaults() -> Value {
    json!({
        "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    })
}

/// `RobertaConfig`'s: BERT's but for these.
pub(crate) fn roberta_defaults() -> Value {
    let mut defaults = bert_defaults();
    defaults["vocab_size"] = 50265.into();
    defaults["pad_token_id"] = 1.into();
    defaults
}

/// `LlamaConfig`'s.
pub(crate) fn llama_defaults() -> Value {
    json!({
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    })
}

/// `MistralConfig`'s: a file that does not say otherwise has eight key heads and a window.
pub(crate) fn mistral_defaults() -> Value {
    json!({
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card;

    fn check(config: &Value) -> Result<Vec<String>, String> {
        let card = card(config).unwrap();
        card.check(config, &Map::new()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_of_another_network_is_refused_by_its_name() {
        for (key, value) in [
            ("sliding_window", json!(4096)),
            ("quantization_config", json!({ "quant_method": "gptq" })),
            ("logits_scaling", json!(8.0)),
            ("final_logit_softcapping", json!(30.0)),
            ("num_local_experts", json!(8)),
            ("residual_multiplier", json!(0.0)),
            ("sliding_window", json!(1)),
            ("no_rope_layers", json!([1, 0])),
        ] {
            let refused = check(&json!({ "model_type": "llama", key: value }));
            assert!(refused.is_err_and(|message| message.contains(key)), "{key}");
        }
        assert!(check(&json!({ "model_type": "bert", "is_decoder": true })).is_err());
        for (model, causal) in [("llama", true), ("mistral", true), ("bert", false), ("roberta", false)] {
            let says = |causal: bool| check(&json!({ "model_type": model, "is_causal": causal }));
            assert_eq!(says(causal), Ok(Vec::new()), "{model}");
            assert!(says(!causal).is_err_and(|message| message.contains("`is_causal`")), "{model}");
        }
    }

    #[test]
    fn a_key_that_a_user_sets_is_read_or_refused() {
        let config = json!({ "model_type": "llama" });
        for (key, read) in
            [("rope_theta", true), ("eos_token_id", true), ("torch_dtype", false), ("made_up", false)]
        {
            let changes = Map::from_iter([(key.to_owned(), json!(1))]);
            let told = card(&config).unwrap().check(&config, &changes);
            assert_eq!(told.is_err_and(|error| error.to_string().contains(key)), !read, "{key}");
        }
    }

    #[test]
    fn what_changes_nothing_is_passed_over_and_what_is_unknown_is_told() {
        let quiet = json!({ "model_type": "llama", "use_cache": true, "pretraining_tp": 2, "num_experts": 0,
            "sliding_window": null, "top_p": 0.9, "made_up": false });
        assert_eq!(check(&quiet), Ok(Vec::new()));
        // what rope scaling reads beside its own table
        let read = json!({ "model_type": "llama", "original_max_position_embeddings": 64 });
        assert_eq!(check(&read), Ok(Vec::new()));
        let told = check(&json!({ "model_type": "llama", "made_up": 3 })).unwrap();
        assert!(told.len() == 1 && told[0].contains("made_up"), "{told:?}");
    }

    #[test]
    fn code_of_a_repositorys_own_and_a_padding_that_is_no_token_are_told() {
        let auto_map = json!({ "AutoModel": "modeling_x.XModel" });
        for (key, value, part) in [
            ("auto_map", auto_map, "modeling_x.XModel"),
            ("pad_token_id", json!(-1), "pad_token_id = -1"),
            ("pad_token_id", json!(8), "pad_token_id = 8"),
        ] {
            let told = check(&json!({ "model_type": "llama", "vocab_size": 8, key: value })).unwrap();
            assert!(told.len() == 1 && told[0].contains(part), "{told:?}");
        }
        let quiet = json!({ "model_type": "llama", "vocab_size": 8, "auto_map": {}, "pad_token_id": 7 });
        assert_eq!(check(&quiet), Ok(Vec::new()));
    }

    #[test]
    fn absent_keys_have_transformers_values() {
        let config = json!({ "model_type": "mistral", "sliding_window": null });
        let config = card(&config).unwrap().with_defaults(&config);
        assert_eq!(config["num_key_value_heads"], 8);
        // null is a value: no window
        assert!(config["sliding_window"].is_null());
        let absent = json!({ "model_type": "mistral" });
        assert_eq!(card(&absent).unwrap().with_defaults(&absent)["sliding_window"], 4096);
    }
}
