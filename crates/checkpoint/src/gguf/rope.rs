//! `rope_scaling` of a Hub `config.json`, from the keys `llama.rope.*` and the tensors of divisors, as llama.cpp reads
//! them (`llama_model::load_hparams`, `llama_context`, `rope_yarn` of `ggml/src/ggml-cpu/ops.cpp`).

use serde_json::{Value, json};

use super::keys::short;
use super::names::{DIVISORS, LONG_DIVISORS, SHORT_DIVISORS};
use super::{Gguf, GgufValue};
use crate::CheckpointError;

/// `rope_scaling` for heads of `head` dimensions and a context of `context` tokens; none where nothing is scaled.
pub(super) fn scaling(gguf: &Gguf, head: usize, context: usize) -> Result<Option<Value>, CheckpointError> {
    let kind = match gguf.get("llama.rope.scaling.type") {
        None => "linear",
        Some(GgufValue::String(kind)) => kind.as_str(),
        Some(other) => {
            return Err(gguf.refuse(&format!("`llama.rope.scaling.type` is {}, no name", short(other))));
        }
    };
    for name in [SHORT_DIVISORS, LONG_DIVISORS] {
        if gguf.divisors.contains_key(name) != (kind == "longrope") {
            return Err(gguf.refuse(&format!(
                "`llama.rope.scaling.type` is `{kind}`, but the tensor `{name}` goes with `longrope` and with nothing else"
            )));
        }
    }
    check_extrapolation(gguf, kind)?;
    let scale = Scale {
        factor: factor(gguf)?,
        attention: gguf.float("llama.rope.scaling.attn_factor")?.unwrap_or(1.0),
        original: gguf.integer("llama.rope.scaling.original_context_length")?.unwrap_or(context),
        head,
    };
    match kind {
        "none" => Ok(Scale { factor: 1.0, ..scale }.linear(gguf)),
        "linear" => Ok(scale.linear(gguf)),
        "yarn" => scale.yarn(gguf).map(Some),
        "longrope" => Ok(Some(scale.divided(gguf, SHORT_DIVISORS, LONG_DIVISORS))),
        other => Err(gguf.refuse(&format!(
            "`llama.rope.scaling.type` is `{other}`, which is not implemented; there are none, linear, yarn, longrope"
        ))),
    }
}

/// How much of YaRN's ramp is followed: all of it with `yarn`, nothing without; -1 leaves that to the type.
fn check_extrapolation(gguf: &Gguf, kind: &str) -> Result<(), CheckpointError> {
    let key = "llama.rope.scaling.yarn_ext_factor";
    let implied = if kind == "yarn" { 1.0 } else { 0.0 };
    match gguf.float(key)? {
        Some(part) if part != implied && part != -1.0 => Err(gguf.refuse(&format!(
            "`{key}` is {part}, which is not implemented with `llama.rope.scaling.type` {kind}"
        ))),
        _ => Ok(()),
    }
}

/// What positions are divided by: the older key where the newer one is absent, and nothing where it is 0.
fn factor(gguf: &Gguf) -> Result<f64, CheckpointError> {
    let (key, older) = ("llama.rope.scaling.factor", "llama.rope.scale_linear");
    let factor = gguf.float(if gguf.get(key).is_some() { key } else { older })?;
    match factor.unwrap_or(1.0) {
        0.0 => Ok(1.0),
        factor if factor > 0.0 => Ok(factor),
        factor => Err(gguf.refuse(&format!("`{key}` is {factor}, no factor"))),
    }
}

struct Scale {
    factor: f64,
    /// What cosine and sine are multiplied by.
    attention: f64,
    /// The trained length.
    original: usize,
    head: usize,
}

impl Scale {
    fn linear(&self, gguf: &Gguf) -> Option<Value> {
        if gguf.divisors.contains_key(DIVISORS) || self.attention != 1.0 {
            return Some(self.divided(gguf, DIVISORS, DIVISORS));
        }
        (self.factor != 1.0).then(|| json!({ "rope_type": "linear", "factor": self.factor }))
    }

    /// A divisor for each frequency: `longrope`, which is that for texts of any length where both lists are one.
    fn divided(&self, gguf: &Gguf, short: &str, long: &str) -> Value {
        let divisors = |name: &str| match gguf.divisors.get(name) {
            Some(divisors) => divisors.iter().map(|divisor| divisor * self.factor).collect(),
            None => vec![self.factor; self.head / 2],
        };
        json!({
            "rope_type": "longrope",
            "short_factor": divisors(short),
            "long_factor": divisors(long),
            "factor": self.factor,
            "attention_factor": self.attention,
            "original_max_position_embeddings": self.original,
        })
    }

    fn yarn(&self, gguf: &Gguf) -> Result<Value, CheckpointError> {
        if gguf.divisors.contains_key(DIVISORS) {
            let message = format!(
                "has the tensor `{DIVISORS}`, and `llama.rope.scaling.type` is yarn: only one can be followed"
            );
            return Err(gguf.refuse(&message));
        }
        let usual = if self.factor > 1.0 { 1.0 + 0.1 * self.factor.ln() } else { 1.0 };
        let mut yarn = json!({
            "rope_type": "yarn",
            "factor": self.factor,
            "original_max_position_embeddings": self.original,
            "attention_factor": self.attention * usual,
        });
        for side in ["beta_fast", "beta_slow"] {
            if let Some(beta) = gguf.float(&format!("llama.rope.scaling.yarn_{side}"))? {
                yarn[side] = beta.into();
            }
        }
        Ok(yarn)
    }
}
