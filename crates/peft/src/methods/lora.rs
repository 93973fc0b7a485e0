#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use burn::module::Module;
use burn::tensor::Tensor;
use peftlab_layers::params::ParamInfo;
use peftlab_layers::{
    Attached, Initializer, Inner, Linear, Merged, Model, ProjectionAdapter, ProjectionInfo, Role,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, Targets};

/// LoRA: a low-rank update beside a frozen projection.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    /// r
    pub rank: usize,
    /// α; the update is scaled by α/r.
    pub alpha: f64,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// Projections; query and value if absent.
    pub target_modules: Option<Targets>,
    /// Scale by α/√r (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732).
    pub rank_stabilised: bool,
    /// Which biases are trained besides.
    pub bias: LoraBias,
}

/// Which biases LoRA trains besides its own tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraBias {
    /// None.
    None,
    /// Every one of the network.
    All,
    /// Those of the projections that have an update.
    LoraOnly,
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            target_modules: None,
            rank_stabilised: false,
            bias: LoraBias::None,
        }
    }
}

impl Lora {
    fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    fn targets<'a>(&self, outline: &'a Outline) -> Result<Vec<&'a ProjectionInfo>, NotApplicable> {
        if self.rank == 0 {
            return Err(NotApplicable::new("rank is 0, and there would be nothing to train; use 1 or more"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let dropout = self.dropout;
            return Err(NotApplicable::new(format!(
                "dropout is {dropout}; it must be at least 0 and below 1"
            )));
        }
        Targets::select(self.target_modules.as_ref(), &[Role::Query, Role::Value], outline)
    }
}

impl Method for Lora {
    const CARD: Card = Card {
        name: "lora",
        title: "LoRA",
        family: Family::Reparameterized,
        paper: "Hu et al. 2021, arXiv 2106.09685",
        summary: "y = x W + b + (α/r) drop(x) A B with W frozen, A [in, r] drawn Kaiming-uniform and B [r, out] zero. \
                  It is computed on activations: the dense A B is never made in training.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank", "8", "r"),
            ("alpha", "8", "α; the update is scaled by α/r"),
            ("dropout", "0", "dropout on the input of the update"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            ("rank_stabilised", "false", "scale by α/√r (rsLoRA, arXiv 2312.03732)"),
            ("bias", "\"none\"", "biases trained besides: \"none\", \"all\" or \"lora_only\""),
        ],
    };

    fn label(&self) -> String {
        let name = if self.rank_stabilised { "rslora" } else { "lora" };
        format!("{name} r={} {}", self.rank, Targets::label(self.target_modules.as_ref(), "q,v"))
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let targets = self.targets(outline)?;
        let low_rank: usize = targets.iter().map(|p| self.rank * (p.input + p.output)).sum();
        let biases: usize = match self.bias {
            LoraBias::None => 0,
            LoraBias::LoraOnly => targets.iter().filter(|p| p.bias).map(|p| p.output).sum(),
            LoraBias::All => {
                outline.body().filter(|info| info.name.ends_with(".bias")).map(ParamInfo::elements).sum()
            }
        };
        Ok(Count::all(low_rank + biases))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let names: Vec<&str> = self.targets(outline)?.iter().map(|p| p.name.as_str()).collect();
        for projection in model.sites().projections {
            let ProjectionInfo { name, input, output, .. } = &projection.info;
            if !names.contains(&name.as_str()) {
                continue;
            }
            let adapter = LoraAdapter {
                lora_A: Linear { weight: init.kaiming([*input, self.rank]), bias: None },
                lora_B: Linear { weight: init.constant(0.0, [self.rank, *output]), bias: None },
                scale: self.scale(),
                dropout: self.dropout,
            };
            projection.adapters.push(Attached::new(Box::new(adapter)));
            if self.bias == LoraBias::LoraOnly {
                projection.bias = projection.bias.take().map(|bias| bias.set_require_grad(true));
            }
        }
        Ok(())
    }

    fn trains(&self, parameter: &ParamInfo) -> bool {
        self.bias == LoraBias::All && parameter.name.ends_with(".bias")
    }

    fn from_peft(config: &Value) -> Result<Option<Self>, NotApplicable> {
        if config["peft_type"] != "LORA" {
            return Ok(None);
        }
        let unsupported = |key: &str| {
            NotApplicable::new(format!("adapter_config.json: `{key}` = {} is not supported", config[key]))
        };
        for key in ["use_dora", "use_qalora", "fan_in_fan_out", "lora_bias"] {
            if config[key] == true {
                return Err(unsupported(key));
            }
        }
        for key in ["rank_pattern", "alpha_pattern"] {
            if config[key].as_object().is_some_and(|patterns| !patterns.is_empty()) {
                return Err(unsupported(key));
            }
        }
        let bias = serde_json::from_value(config["bias"].clone()).map_err(|_| unsupported("bias"))?;
        Ok(Some(Self {
            rank: config["r"].as_u64().ok_or_else(|| unsupported("r"))? as usize,
            alpha: config["lora_alpha"].as_f64().ok_or_else(|| unsupported("lora_alpha"))?,
            dropout: config["lora_dropout"].as_f64().unwrap_or(0.0),
            target_modules: targets_from_peft(&config["target_modules"]),
            rank_stabilised: config["use_rslora"] == true,
            bias,
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        Some(json!({
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": targets_to_peft(&self.targets(outline).ok()?),
            "use_rslora": self.rank_stabilised,
            "bias": self.bias,
            "fan_in_fan_out": false,
            "init_lora_weights": true,
        }))
    }
}

/// `target_modules` of an `adapter_config.json`.
pub(crate) fn targets_from_peft(targets: &Value) -> Option<Targets> {
    match serde_json::from_value(targets.clone()).ok()? {
        // PEFT keeps a set: its order in the file is not the same from run to run
        Targets::Names(mut names) => {
            names.sort();
            Some(Targets::Names(names))
        }
        pattern => Some(pattern),
    }
}

/// The whole names, so that the adapter lands on the same modules whatever the rule was.
pub(crate) fn targets_to_peft(targets: &[&ProjectionInfo]) -> Vec<String> {
    targets.iter().map(|p| p.name.clone()).collect()
}

/// LoRA's tensors at one projection.
#[derive(Module, Debug)]
struct LoraAdapter {
    lora_A: Linear,
    lora_B: Linear,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    dropout: f64,
}

impl ProjectionAdapter for LoraAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let dropped = inner.context.dropout(input.clone(), self.dropout);
        let update = self.lora_B.forward(self.lora_A.forward(dropped) * self.scale);
        inner.forward(input) + update
    }

    fn merge(&self, mut weights: Merged) -> Option<Merged> {
        let update = self.lora_A.weight.val().matmul(self.lora_B.weight.val()) * self.scale;
        let dtype = weights.weight.dtype();
        weights.weight = (weights.weight.cast(update.dtype()) + update).cast(dtype);
        Some(weights)
    }
}
