//! What LoRA and its variants share: a low-rank update beside a frozen projection.
#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use burn::module::Module;
use burn::tensor::Tensor;
use peftlab_layers::{
    Attached, Context, Initializer, Inner, Linear, Merged, Model, Projection, ProjectionAdapter,
    ProjectionInfo, Role,
};
use serde_json::{Value, json};

use super::checks::{check_dropout, check_rank};
use crate::{NotApplicable, Outline, Targets};

/// Where LoRA acts unless it is told otherwise.
pub(crate) const QUERY_VALUE: [Role; 2] = [Role::Query, Role::Value];

/// Every linear of the blocks.
pub(crate) const BLOCKS: [Role; 7] =
    [Role::Query, Role::Key, Role::Value, Role::AttentionOutput, Role::Gate, Role::Up, Role::Down];

/// The settings that LoRA and its variants have in common.
pub(crate) struct LowRank<'a> {
    /// r
    pub(crate) rank: usize,
    /// The factor on the update.
    pub(crate) scale: f64,
    /// Dropout on the input of the update.
    pub(crate) dropout: f64,
    /// Projections.
    pub(crate) targets: Option<&'a Targets>,
    /// Projections if there are no targets.
    pub(crate) roles: &'a [Role],
}

impl LowRank<'_> {
    /// The projections that get an update.
    pub(crate) fn select<'o>(&self, outline: &'o Outline) -> Result<Vec<&'o ProjectionInfo>, NotApplicable> {
        check_rank("rank", self.rank)?;
        check_dropout(self.dropout)?;
        Targets::select(self.targets, self.roles, outline)
    }

    /// Parameters of all updates.
    pub(crate) fn count(&self, outline: &Outline) -> Result<usize, NotApplicable> {
        Ok(self.select(outline)?.iter().map(|p| self.rank * (p.input + p.output)).sum())
    }

    /// LoRA's tensors as they start: A drawn Kaiming-uniform, B zero.
    pub(crate) fn init(&self, info: &ProjectionInfo, init: &mut Initializer) -> LoraAdapter {
        LoraAdapter {
            lora_A: Linear { weight: init.kaiming([info.input, self.rank]), bias: None },
            lora_B: Linear { weight: init.constant(0.0, [self.rank, info.output]), bias: None },
            scale: self.scale,
            dropout: self.dropout,
        }
    }

    /// Attaches what `adapter` makes to every target.
    pub(crate) fn attach<A: ProjectionAdapter + 'static>(
        &self,
        model: &mut Model,
        outline: &Outline,
        mut adapter: impl FnMut(&mut Projection) -> A,
    ) -> Result<(), NotApplicable> {
        attach(model, &self.select(outline)?, |projection| Ok(adapter(projection)))
    }
}

/// Attaches what `adapter` makes to each of `targets`.
pub(crate) fn attach<A: ProjectionAdapter + 'static>(
    model: &mut Model,
    targets: &[&ProjectionInfo],
    mut adapter: impl FnMut(&mut Projection) -> Result<A, NotApplicable>,
) -> Result<(), NotApplicable> {
    for projection in model.sites().projections {
        if targets.iter().any(|target| target.name == projection.info.name) {
            let adapter = adapter(projection)?;
            projection.adapters.push(Attached::new(Box::new(adapter)));
        }
    }
    Ok(())
}

/// LoRA's tensors at one projection.
#[derive(Module, Debug)]
pub(crate) struct LoraAdapter {
    pub(crate) lora_A: Linear,
    pub(crate) lora_B: Linear,
    #[module(skip)]
    pub(crate) scale: f64,
    #[module(skip)]
    pub(crate) dropout: f64,
}

impl LoraAdapter {
    /// The update of the weight, `[in, out]`.
    pub(crate) fn update(&self) -> Tensor<2> {
        self.lora_A.weight.val().matmul(self.lora_B.weight.val()) * self.scale
    }

    /// The update's part of the output; the input's dropout is applied here.
    pub(crate) fn branch(&self, input: Tensor<3>, context: &Context) -> Tensor<3> {
        let dropped = context.dropout(input, self.dropout);
        self.lora_B.forward(self.lora_A.forward(dropped) * self.scale)
    }
}

impl ProjectionAdapter for LoraAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let update = self.branch(input.clone(), inner.context);
        inner.forward(input) + update
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        Some(weights.plus(self.update()))
    }
}

/// An `adapter_config.json` of PEFT's LoRA, if it is one, as its variants read it.
pub(crate) struct PeftLora<'a>(&'a Value);

impl<'a> PeftLora<'a> {
    /// `config`, where it is LoRA's, and every option named in `variant` is on and every other variant's off.
    pub(crate) fn read(config: &'a Value, variant: &[&str]) -> Option<Self> {
        const SWITCHES: [&str; 2] = ["use_rslora", "use_dora"];
        let init = config["init_lora_weights"].as_str().unwrap_or("default");
        let init = if ["pissa", "olora", "loftq"].contains(&init) { init } else { "default" };
        let is = config["peft_type"] == "LORA"
            && SWITCHES.iter().all(|switch| (config[*switch] == true) == variant.contains(switch))
            && (init == "default" || variant.contains(&init))
            && variant.iter().all(|name| SWITCHES.contains(name) || *name == init);
        is.then_some(Self(config))
    }

    fn unsupported(&self, key: &str) -> NotApplicable {
        NotApplicable::new(format!("adapter_config.json: `{key}` = {} is not supported", self.0[key]))
    }

    /// An error where an option is on that no variant has.
    pub(crate) fn check(&self) -> Result<(), NotApplicable> {
        for key in ["use_qalora", "fan_in_fan_out", "lora_bias"] {
            if self.0[key] == true {
                return Err(self.unsupported(key));
            }
        }
        for key in ["rank_pattern", "alpha_pattern"] {
            if self.0[key].as_object().is_some_and(|patterns| !patterns.is_empty()) {
                return Err(self.unsupported(key));
            }
        }
        Ok(())
    }

    /// `r`
    pub(crate) fn rank(&self) -> Result<usize, NotApplicable> {
        let rank = self.0["r"].as_u64().ok_or_else(|| self.unsupported("r"))?;
        Ok(rank as usize)
    }

    /// `lora_alpha`
    pub(crate) fn alpha(&self) -> Result<f64, NotApplicable> {
        self.0["lora_alpha"].as_f64().ok_or_else(|| self.unsupported("lora_alpha"))
    }

    /// `lora_dropout`
    pub(crate) fn dropout(&self) -> f64 {
        self.0["lora_dropout"].as_f64().unwrap_or(0.0)
    }

    /// `target_modules`
    pub(crate) fn targets(&self) -> Option<Targets> {
        Targets::from_peft(&self.0["target_modules"])
    }

    /// `bias`, as `T` names its values.
    pub(crate) fn bias<T: serde::de::DeserializeOwned>(&self) -> Result<T, NotApplicable> {
        serde_json::from_value(self.0["bias"].clone()).map_err(|_| self.unsupported("bias"))
    }

    /// An error where biases are trained besides.
    pub(crate) fn no_bias(&self) -> Result<(), NotApplicable> {
        match &self.0["bias"] {
            Value::Null => Ok(()),
            bias if bias == "none" => Ok(()),
            _ => Err(self.unsupported("bias")),
        }
    }
}

/// An `adapter_config.json` of PEFT's LoRA; a variant adds its options.
pub(crate) fn lora_config(low_rank: &LowRank<'_>, alpha: f64, outline: &Outline) -> Option<Value> {
    Some(json!({
        "peft_type": "LORA",
        "r": low_rank.rank,
        "lora_alpha": alpha,
        "lora_dropout": low_rank.dropout,
        "target_modules": Targets::to_peft(&low_rank.select(outline).ok()?),
        "use_rslora": false,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
    }))
}
