//! Every key of the metadata is used, known not to matter here, or refused.
//!
//! The names are those of the GGUF specification (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>) and of
//! llama.cpp's `gguf-py/gguf/constants.py`.

use super::GgufValue;

/// What [`config`](super::config) and the tokenizer read.
const USED: [&str; 48] = [
    "general.architecture",
    "general.alignment",
    "split.no",
    "split.count",
    "split.tensors.count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.block_count",
    "llama.feed_forward_length",
    "llama.vocab_size",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.attention.sliding_window",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "llama.rope.scale_linear",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.rope.scaling.attn_factor",
    "llama.rope.scaling.original_context_length",
    "llama.rope.scaling.yarn_beta_fast",
    "llama.rope.scaling.yarn_beta_slow",
    "llama.rope.scaling.yarn_ext_factor",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_space_prefix",
    // checked against the vocabulary
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.separator_token_id",
    "tokenizer.ggml.cls_token_id",
    "tokenizer.ggml.mask_token_id",
    // which block has experts does not matter where there are none
    "llama.expert_used_count",
    // llama.cpp shows it and no more
    "llama.rope.scaling.finetuned",
    // how states are made one vector, which no task here does
    "llama.pooling_type",
];

/// Beginnings of keys that say where a model is from, how to sample from it, or how a chat is written, and what an
/// infilling task would want: nothing that changes the network or how a text is cut.
const HARMLESS: [&str; 9] = [
    "general.",
    "quantize.",
    "imatrix.",
    "tokenizer.chat_template",
    // the Hub's form of what `tokenizer.ggml` says; llama.cpp does not read it
    "tokenizer.huggingface.json",
    "tokenizer.ggml.fim_",
    "tokenizer.ggml.suppress_tokens",
    "tokenizer.ggml.token_type_count",
    // the names of before `fim_`
    "tokenizer.ggml.prefix_token_id",
];

const HARMLESS_TOO: [&str; 2] = ["tokenizer.ggml.suffix_token_id", "tokenizer.ggml.middle_token_id"];

/// Keys that change nothing at these values, and are refused at any other.
const NEUTRAL: [(&str, &[Neutral]); 21] = [
    ("general.type", &[Neutral::Text("model")]),
    ("general.quantization_version", &[Neutral::Number(2.0)]),
    ("llama.expert_count", &[Neutral::Number(0.0)]),
    ("llama.expert_shared_count", &[Neutral::Number(0.0)]),
    ("llama.use_parallel_residual", &[Neutral::Truth(false)]),
    ("llama.tensor_data_layout", &[Neutral::Text("Meta AI original pth")]),
    ("llama.logit_scale", &[Neutral::Number(1.0)]),
    ("llama.residual_scale", &[Neutral::Number(1.0)]),
    ("llama.embedding_scale", &[Neutral::Number(1.0)]),
    ("llama.attn_logit_softcapping", &[Neutral::Number(0.0)]),
    ("llama.final_logit_softcapping", &[Neutral::Number(0.0)]),
    ("llama.attention.causal", &[Neutral::Truth(true)]),
    ("llama.attention.clamp_kqv", &[Neutral::Number(0.0)]),
    ("llama.attention.max_alibi_bias", &[Neutral::Number(0.0)]),
    ("llama.rope.scaling.yarn_log_multiplier", &[Neutral::Number(0.0)]),
    ("llama.rope.scaling.yarn_attn_factor", &[Neutral::Number(1.0)]),
    ("llama.rope.scaling.alpha", &[Neutral::Number(0.0)]),
    ("tokenizer.ggml.add_sep_token", &[Neutral::Truth(false)]),
    ("tokenizer.ggml.remove_extra_whitespaces", &[Neutral::Truth(false)]),
    ("tokenizer.ggml.precompiled_charsmap", &[Neutral::Empty]),
    ("tokenizer.ggml.normalizer.lowercase", &[Neutral::Truth(false)]),
];

enum Neutral {
    Number(f64),
    Truth(bool),
    Text(&'static str),
    Empty,
}

impl Neutral {
    fn is(&self, value: &GgufValue) -> bool {
        match (self, value) {
            (Self::Number(n), GgufValue::Integer(value)) => *value as f64 == *n,
            (Self::Number(n), GgufValue::Float(value)) => value == n,
            (Self::Truth(truth), GgufValue::Bool(value)) => value == truth,
            (Self::Text(text), GgufValue::String(value)) => value == text,
            (Self::Empty, GgufValue::Integers(values)) => values.is_empty(),
            (Self::Empty, GgufValue::Floats(values)) => values.is_empty(),
            (Self::Empty, GgufValue::Strings(values)) => values.is_empty(),
            (Self::Empty, GgufValue::String(value)) => value.is_empty(),
            _ => false,
        }
    }
}

/// What becomes of a key.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It is read, or changes nothing.
    Fine,
    /// It is of nobody's namespace that is known: to be told.
    Unknown,
    /// It would change the numbers, and nothing here does what it says.
    Refused(String),
}

/// What becomes of `key` with `value`.
pub(super) fn verdict(key: &str, value: &GgufValue) -> Verdict {
    if let Some((_, neutral)) = NEUTRAL.iter().find(|(known, _)| *known == key) {
        return match neutral.iter().any(|neutral| neutral.is(value)) {
            true => Verdict::Fine,
            false => Verdict::Refused(format!("`{key}` is {}, which is not implemented", short(value))),
        };
    }
    let harmless = HARMLESS.iter().any(|start| key.starts_with(start)) || HARMLESS_TOO.contains(&key);
    if USED.contains(&key) || harmless {
        return Verdict::Fine;
    }
    let ours = ["llama.", "tokenizer.", "split.", "adapter.", "clip.", "diffusion."];
    match ours.iter().any(|start| key.starts_with(start)) {
        true => Verdict::Refused(format!(
            "the key `{key}` (here {}) is not known and may change the network; take a file without it, or the model's \
             safetensors",
            short(value)
        )),
        false => Verdict::Unknown,
    }
}

/// A value for a message.
pub(super) fn short(value: &GgufValue) -> String {
    match value {
        GgufValue::Integer(value) => value.to_string(),
        GgufValue::Float(value) => value.to_string(),
        GgufValue::Bool(value) => value.to_string(),
        GgufValue::String(value) => format!("`{}`", value.chars().take(40).collect::<String>()),
        GgufValue::Integers(values) => format!("a list of {}", values.len()),
        GgufValue::Floats(values) => format!("a list of {}", values.len()),
        GgufValue::Strings(values) => format!("a list of {}", values.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_verdict() {
        let fine = |key, value| assert_eq!(verdict(key, &value), Verdict::Fine, "{key}");
        fine("llama.expert_count", GgufValue::Integer(0));
        fine("general.base_model.0.name", GgufValue::Integer(0));
        fine("llama.rope.scaling.yarn_attn_factor", GgufValue::Float(1.0));
        fine("tokenizer.ggml.precompiled_charsmap", GgufValue::Integers(Vec::new()));
        let refused = |key, value| {
            let verdict = verdict(key, &value);
            assert!(
                matches!(&verdict, Verdict::Refused(message) if message.contains(key)),
                "{key}: {verdict:?}"
            );
        };
        refused("llama.expert_count", GgufValue::Integer(8));
        refused("llama.logit_scale", GgufValue::Float(0.5));
        refused("llama.attention.causal", GgufValue::Bool(false));
        refused("llama.anything.new", GgufValue::Integer(0));
        refused("tokenizer.ggml.new", GgufValue::Integer(0));
        refused("tokenizer.ggml.precompiled_charsmap", GgufValue::Integers(vec![1]));
        refused("general.type", GgufValue::String("adapter".to_owned()));
        assert_eq!(verdict("mradermacher.quantized_by", &GgufValue::Integer(0)), Verdict::Unknown);
    }
}
