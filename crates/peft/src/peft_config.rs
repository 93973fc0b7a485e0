//! Reading an `adapter_config.json` of Hugging Face PEFT: every key is read, known to be harmless, at its neutral value,
//! or refused.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::selection::{OneOrMore, Selection};
use crate::{NotApplicable, RankPatterns, Targets};

/// The values of `peft_type` that a method of this crate reads.
const KINDS: [&str; 13] = [
    "ADALORA",
    "BOFT",
    "GLORA",
    "IA3",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "LORA",
    "OFT",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "VBLORA",
    "VERA",
];

/// Keys of PEFT 0.21 that do not change what a loaded adapter computes: where it came from, how tensors that the file
/// has were drawn, and numbers that belong to a switch of their own.
const HARMLESS: [&str; 23] = [
    "auto_mapping",
    "base_model_name_or_path",
    "eps",
    "eva_config",
    "inference_mode",
    "init_ia3_weights",
    "init_logits_std",
    "init_vector_bank_bound",
    "init_weights",
    "loftq_config",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "projection_prng_key",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "tokenizer_kwargs",
    "tokenizer_name_or_path",
];

/// Why no method reads an adapter of the kind `peft_type`.
pub(crate) fn unread(peft_type: &Value) -> NotApplicable {
    NotApplicable::new(match peft_type.as_str().is_some_and(|kind| KINDS.contains(&kind)) {
        true => format!("no method is registered for `peft_type` = {peft_type} with these options"),
        false => format!("`peft_type` = {peft_type} is not known; there are {}", KINDS.join(", ")),
    })
}

/// Far above every rank, and products of a few such numbers still fit into 64 bits.
const LARGEST: usize = 1 << 20;

/// Keys that act in training alone.
const IN_TRAINING: [&str; 4] = ["rank_dropout", "rank_dropout_scale", "module_dropout", "boft_dropout"];

/// What the keys mean that are neither null, false nor empty where nothing is asked for (PEFT 0.21's defaults).
fn neutral(key: &str) -> Option<Value> {
    Some(match key {
        "bias" => json!("none"),
        "save_projection" => json!(true),
        "boft_block_num" | "r" => json!(0),
        _ => return None,
    })
}

/// An `adapter_config.json`, which remembers what was read of it.
pub struct PeftConfig<'a> {
    config: &'a Map<String, Value>,
    read: RefCell<BTreeSet<&'static str>>,
}

impl<'a> PeftConfig<'a> {
    /// `config`, of an adapter of whatever kind.
    ///
    /// # Errors
    /// Where it is no object.
    pub fn new(config: &'a Value) -> Result<Self, NotApplicable> {
        let config = config
            .as_object()
            .ok_or_else(|| NotApplicable::new("is no JSON object, as PEFT's adapter_config.json is"))?;
        Ok(Self { config, read: RefCell::default() })
    }

    /// Whether the adapter is of the kind `peft_type`.
    pub fn is(&self, peft_type: &str) -> bool {
        self.config.get("peft_type").is_some_and(|kind| kind == peft_type)
    }

    /// The value of `key`, null if it is absent.
    pub fn get(&self, key: &'static str) -> &'a Value {
        self.read.borrow_mut().insert(key);
        self.config.get(key).unwrap_or(&Value::Null)
    }

    /// The error for a key with a value that is not supported.
    pub fn unsupported(&self, key: &str) -> NotApplicable {
        let value = self.config.get(key).unwrap_or(&Value::Null);
        NotApplicable::new(format!(
            "`{key}` = {value} is not supported, and the adapter would be another without it"
        ))
    }

    /// A value of any type that can be read; `default` if the key is absent or null.
    ///
    /// # Errors
    /// Where it is of another type.
    pub fn value<T: DeserializeOwned>(&self, key: &'static str, default: T) -> Result<T, NotApplicable> {
        match self.get(key) {
            Value::Null => Ok(default),
            value => serde_json::from_value(value.clone()).map_err(|_| self.unsupported(key)),
        }
    }

    /// A size that is not negative, and that a network can have.
    ///
    /// # Errors
    /// Where it is no such number.
    pub fn integer(&self, key: &'static str, default: usize) -> Result<usize, NotApplicable> {
        match self.value(key, default as u64)? {
            size if size <= LARGEST as u64 => Ok(size as usize),
            _ => Err(self.unsupported(key)),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// Where it is none.
    pub fn number(&self, key: &'static str, default: f64) -> Result<f64, NotApplicable> {
        self.value(key, default)
    }

    /// Whether the switch `key` is on.
    ///
    /// # Errors
    /// Where it is no switch.
    pub fn is_on(&self, key: &'static str) -> Result<bool, NotApplicable> {
        self.value(key, false)
    }

    /// The projections that are meant.
    ///
    /// # Errors
    /// Where one of the keys is of another type.
    pub fn selection(&self) -> Result<Selection, NotApplicable> {
        Ok(Selection {
            target_modules: self.targets("target_modules")?,
            exclude_modules: self.targets("exclude_modules")?,
            layers_to_transform: self.value::<Option<OneOrMore<usize>>>("layers_to_transform", None)?,
            layers_pattern: self
                .value::<Option<OneOrMore<String>>>("layers_pattern", None)?
                .filter(|pattern| pattern.as_slice().iter().any(|pattern| !pattern.is_empty())),
            modules_to_save: Some(self.value("modules_to_save", Vec::new())?),
        })
    }

    /// Ranks and α of single modules.
    ///
    /// # Errors
    /// Where one of the keys is of another type.
    pub fn patterns(&self) -> Result<RankPatterns, NotApplicable> {
        let patterns = RankPatterns {
            rank_pattern: self.value("rank_pattern", Default::default())?,
            alpha_pattern: self.value("alpha_pattern", Default::default())?,
        };
        match patterns.rank_pattern.values().any(|rank| *rank > LARGEST) {
            true => Err(self.unsupported("rank_pattern")),
            false => Ok(patterns),
        }
    }

    /// Names or a pattern; `None` where there are none.
    ///
    /// # Errors
    /// Where it is of another type.
    pub fn targets(&self, key: &'static str) -> Result<Option<Targets>, NotApplicable> {
        Ok(self.value::<Option<Targets>>(key, None)?.and_then(Targets::sorted))
    }

    /// What a reader of the adapter's scores should know, after every key that matters was read.
    ///
    /// # Errors
    /// Where a key that nobody read asks for something.
    pub fn finish(&self) -> Result<Vec<String>, NotApplicable> {
        let read = self.read.borrow();
        let mut warnings = Vec::new();
        for (key, value) in self.config {
            let asks = match value {
                Value::Null | Value::Bool(false) => false,
                Value::String(text) => !text.is_empty(),
                Value::Array(values) => !values.is_empty(),
                Value::Object(values) => !values.is_empty(),
                Value::Bool(true) | Value::Number(_) => true,
            };
            let key = key.as_str();
            if read.contains(key) || HARMLESS.contains(&key) || !asks || neutral(key).as_ref() == Some(value)
            {
                continue;
            }
            match key {
                "fan_in_fan_out" => warnings.push(
                    "`fan_in_fan_out` = true is for Conv1D alone; it is taken for false, as PEFT does"
                        .to_owned(),
                ),
                _ if IN_TRAINING.contains(&key) => {
                    if value.as_f64() != Some(0.0) {
                        warnings.push(format!("`{key}` = {value} acts in training alone, and is left out"));
                    }
                }
                _ => return Err(self.unsupported(key)),
            }
        }
        Ok(warnings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(extra: Value) -> Result<Vec<String>, String> {
        let mut config = json!({ "peft_type": "LORA", "bias": "none", "task_type": "CAUSAL_LM" });
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        PeftConfig::new(&config).unwrap().finish().map_err(|error| error.to_string())
    }

    #[test]
    fn what_asks_for_nothing_is_harmless() {
        let neutral = json!({ "newer": null, "other": false, "list": [], "table": {}, "text": "", "revision": "x",
            "megatron_core": "megatron.core", "rank_dropout": 0.0 });
        assert_eq!(finish(neutral), Ok(Vec::new()));
    }

    #[test]
    fn what_asks_for_something_is_refused_by_name_and_value() {
        for (key, value) in [
            ("layer_replication", json!([[0, 2]])),
            ("use_qalora", json!(true)),
            ("alora_invocation_tokens", json!([1])),
            ("trainable_token_indices", json!([3])),
            ("target_parameters", json!(["w"])),
            ("bias", json!("all")),
            ("of_a_newer_version", json!(0)),
        ] {
            let error = finish(json!({ key: value })).unwrap_err();
            assert!(error.contains(key) && error.contains(&value.to_string()), "{error}");
        }
    }

    #[test]
    fn what_acts_in_training_alone_is_told() {
        assert!(finish(json!({ "module_dropout": 0.1 })).unwrap()[0].contains("module_dropout"));
    }
}
