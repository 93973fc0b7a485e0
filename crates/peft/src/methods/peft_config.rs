//! Reading an `adapter_config.json` of Hugging Face PEFT.

use serde_json::Value;

use crate::{NotApplicable, Targets};

/// Options that every kind of adapter may have, and that nothing here does.
const COMMON: [&str; 5] = ["fan_in_fan_out", "bias", "rank_pattern", "alpha_pattern", "exclude_modules"];

/// An `adapter_config.json` of one kind.
pub(crate) struct PeftConfig<'a>(&'a Value);

impl<'a> PeftConfig<'a> {
    /// `config`, where it is of the kind `peft_type`.
    ///
    /// # Errors
    /// Where an option is on that no method here has, or one of `unsupported`.
    pub(crate) fn read(
        config: &'a Value,
        peft_type: &str,
        unsupported: &[&'static str],
    ) -> Result<Option<Self>, NotApplicable> {
        if config["peft_type"] != peft_type {
            return Ok(None);
        }
        let config = Self(config);
        if let Some(key) = COMMON.iter().chain(unsupported).find(|key| config.is_on(key)) {
            return Err(config.unsupported(key));
        }
        // zero is a layer's number here
        match config.0["layers_to_transform"].is_null() {
            true => Ok(Some(config)),
            false => Err(config.unsupported("layers_to_transform")),
        }
    }

    fn is_on(&self, key: &str) -> bool {
        match &self.0[key] {
            Value::Null => false,
            Value::Bool(on) => *on,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !["", "none"].contains(&text.as_str()),
            Value::Array(values) => !values.is_empty(),
            Value::Object(values) => !values.is_empty(),
        }
    }

    /// The error for an option with a value that is not supported.
    pub(crate) fn unsupported(&self, key: &str) -> NotApplicable {
        NotApplicable::new(format!("adapter_config.json: `{key}` = {} is not supported", self.0[key]))
    }

    /// Whether `key` is there and false.
    pub(crate) fn is_false(&self, key: &str) -> bool {
        self.0[key] == false
    }

    /// A whole number that is not negative; `default` if the key is absent.
    pub(crate) fn integer(&self, key: &str, default: usize) -> Result<usize, NotApplicable> {
        match &self.0[key] {
            Value::Null => Ok(default),
            value => value.as_u64().map(|n| n as usize).ok_or_else(|| self.unsupported(key)),
        }
    }

    /// A number; `default` if the key is absent.
    pub(crate) fn number(&self, key: &str, default: f64) -> Result<f64, NotApplicable> {
        match &self.0[key] {
            Value::Null => Ok(default),
            value => value.as_f64().ok_or_else(|| self.unsupported(key)),
        }
    }

    /// A value of any type that can be read; `default` if the key is absent.
    pub(crate) fn value<T: serde::de::DeserializeOwned>(
        &self,
        key: &str,
        default: T,
    ) -> Result<T, NotApplicable> {
        match &self.0[key] {
            Value::Null => Ok(default),
            value => serde_json::from_value(value.clone()).map_err(|_| self.unsupported(key)),
        }
    }

    /// `target_modules`
    pub(crate) fn targets(&self) -> Option<Targets> {
        Targets::from_peft(&self.0["target_modules"])
    }
}
