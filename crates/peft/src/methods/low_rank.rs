//! What LoRA and its variants share: a low-rank update beside a frozen projection.
#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use burn::module::Module;
use burn::tensor::Tensor;
use peftlab_layers::{
    Attached, Context, Initializer, Inner, Linear, Merged, Model, Projection, ProjectionAdapter,
    ProjectionInfo, Role,
};
use peftlab_ops::linear;
use serde_json::{Value, json};

use super::checks::{check_dropout, check_rank};
use crate::rank_patterns::Ranked;
use crate::{NotApplicable, Outline, PeftConfig, RankPatterns, Selection, Targets};

/// Where LoRA acts unless it is told otherwise.
pub const QUERY_VALUE: [Role; 2] = [Role::Query, Role::Value];

/// A row for the cards of methods in which B can have a bias.
pub(crate) const LORA_BIAS: (&str, &str, &str) =
    ("lora_bias", "false", "whether B has a bias, trained and scaled with the update");

/// Every linear of the blocks.
pub const BLOCKS: [Role; 7] =
    [Role::Query, Role::Key, Role::Value, Role::AttentionOutput, Role::Gate, Role::Up, Role::Down];

/// The settings that LoRA and its variants have in common.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// r
    pub rank: usize,
    /// α
    pub alpha: f64,
    /// Whether the update is scaled by α/√r, not α/r.
    pub by_root: bool,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// Ranks and α of single projections.
    pub patterns: &'a RankPatterns,
    /// Projections.
    pub selection: &'a Selection,
    /// Projections if there are no targets.
    pub roles: &'a [Role],
}

impl LowRank<'_> {
    /// The factor on the update.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.by_root { rank.sqrt() } else { rank }
    }

    /// Every projection that gets an update, with the settings that it has there.
    ///
    /// # Errors
    /// Where the settings make no sense, or name no projection.
    pub fn updates<'o>(
        &self,
        outline: &'o Outline,
    ) -> Result<Vec<(&'o ProjectionInfo, Self)>, NotApplicable> {
        let each = self.patterns.of_each(self.select(outline)?, self.rank, self.alpha)?;
        Ok(each.into_iter().map(|at| (at.info, Self { rank: at.rank, alpha: at.alpha, ..*self })).collect())
    }

    /// The projections that get an update.
    ///
    /// # Errors
    /// As [`updates`](Self::updates).
    pub fn select<'o>(&self, outline: &'o Outline) -> Result<Vec<&'o ProjectionInfo>, NotApplicable> {
        check_rank("rank", self.rank)?;
        check_dropout(self.dropout)?;
        self.selection.select(self.roles, outline)
    }

    /// Parameters of all updates.
    ///
    /// # Errors
    /// As [`updates`](Self::updates).
    pub fn count(&self, outline: &Outline) -> Result<usize, NotApplicable> {
        Ok(self.updates(outline)?.iter().map(|(p, at)| at.rank * (p.input + p.output)).sum())
    }

    /// Parameters of the biases of all B.
    ///
    /// # Errors
    /// As [`updates`](Self::updates).
    pub fn biases(&self, outline: &Outline) -> Result<usize, NotApplicable> {
        Ok(self.select(outline)?.iter().map(|p| p.output).sum())
    }

    /// LoRA's tensors as they start: A drawn Kaiming-uniform, B zero.
    pub fn init(&self, info: &ProjectionInfo, init: &mut Initializer) -> LoraAdapter {
        LoraAdapter {
            lora_A: Linear { weight: init.kaiming([info.input, self.rank]), bias: None },
            lora_B: Linear { weight: init.constant(0.0, [self.rank, info.output]), bias: None },
            scale: self.scale(),
            dropout: self.dropout,
        }
    }

    /// Attaches what `adapter` makes, with the settings of each, to every target.
    ///
    /// # Errors
    /// As [`updates`](Self::updates).
    pub fn attach<A: ProjectionAdapter + 'static>(
        &self,
        model: &mut Model,
        outline: &Outline,
        mut adapter: impl FnMut(&mut Projection, Self) -> A,
    ) -> Result<(), NotApplicable> {
        attach_each(model, &self.updates(outline)?, |projection, at| Ok(adapter(projection, at)))
    }
}

/// Attaches what `adapter` makes to each of `targets`.
///
/// # Errors
/// Where `adapter` has one.
pub fn attach<A: ProjectionAdapter + 'static>(
    model: &mut Model,
    targets: &[&ProjectionInfo],
    mut adapter: impl FnMut(&mut Projection) -> Result<A, NotApplicable>,
) -> Result<(), NotApplicable> {
    let targets: Vec<_> = targets.iter().map(|target| (*target, ())).collect();
    attach_each(model, &targets, |projection, ()| adapter(projection))
}

/// Attaches what `adapter` makes, with the rank and α of each, to each of `targets`.
///
/// # Errors
/// Where `adapter` has one.
pub fn attach_ranked<A: ProjectionAdapter + 'static>(
    model: &mut Model,
    targets: &[Ranked<'_>],
    adapter: impl FnMut(&mut Projection, Ranked<'_>) -> Result<A, NotApplicable>,
) -> Result<(), NotApplicable> {
    let targets: Vec<_> = targets.iter().map(|at| (at.info, *at)).collect();
    attach_each(model, &targets, adapter)
}

/// Attaches what `adapter` makes to each of `targets`, which have something of their own.
fn attach_each<T: Copy, A: ProjectionAdapter + 'static>(
    model: &mut Model,
    targets: &[(&ProjectionInfo, T)],
    mut adapter: impl FnMut(&mut Projection, T) -> Result<A, NotApplicable>,
) -> Result<(), NotApplicable> {
    for projection in model.sites().projections {
        if let Some((_, own)) = targets.iter().find(|(info, _)| info.name == projection.info.name) {
            let adapter = adapter(projection, *own)?;
            projection.adapters.push(Attached::new(Box::new(adapter)));
        }
    }
    Ok(())
}

/// LoRA's tensors at one projection.
#[derive(Module, Debug)]
pub struct LoraAdapter {
    /// `[in, r]`
    pub lora_A: Linear,
    /// `[r, out]`
    pub lora_B: Linear,
    /// The factor on the update.
    #[module(skip)]
    pub scale: f64,
    /// Dropout on the input of the update.
    #[module(skip)]
    pub dropout: f64,
}

impl LoraAdapter {
    /// The update of the weight, `[in, out]`.
    pub fn update(&self) -> Tensor<2> {
        self.lora_A.weight.val().matmul(self.lora_B.weight.val()) * self.scale
    }

    /// The same with a bias of B, which starts at zero.
    pub fn with_bias(mut self, init: &mut Initializer) -> Self {
        let [_, output] = self.lora_B.weight.dims();
        self.lora_B.bias = Some(init.constant(0.0, [output]));
        self
    }

    /// B's bias as it is added to the output.
    fn bias(&self) -> Option<Tensor<1>> {
        self.lora_B.bias.as_ref().map(|bias| bias.val() * self.scale)
    }

    /// The update's part of the output; the input's dropout is applied here.
    pub fn branch(&self, input: Tensor<3>, context: &Context) -> Tensor<3> {
        let dropped = context.dropout(input, self.dropout);
        linear(self.lora_A.forward(dropped) * self.scale, self.lora_B.weight.val(), self.bias())
    }
}

impl ProjectionAdapter for LoraAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let update = self.branch(input.clone(), inner.context);
        inner.forward(input) + update
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        let mut merged = weights.plus(self.update());
        if let Some(added) = self.bias() {
            merged.bias = Some(match merged.bias {
                Some(bias) => {
                    let dtype = bias.dtype();
                    (bias.cast(added.dtype()) + added).cast(dtype)
                }
                None => added,
            });
        }
        Some(merged)
    }
}

/// An `adapter_config.json` of PEFT's LoRA, as its variants read it.
pub(crate) struct PeftLora<'a>(&'a PeftConfig<'a>);

/// What makes a variant of LoRA in PEFT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// LoRA itself.
    Plain,
    /// `use_rslora`, and nothing else.
    RsLora,
    /// `use_dora`
    Dora,
    /// `init_lora_weights` = "pissa"
    Pissa,
    /// `init_lora_weights` = "olora"
    Olora,
}

impl<'a> PeftLora<'a> {
    /// `config`, where it is that of `variant`.
    ///
    /// # Errors
    /// Where it is LoRA's with an initialisation that changes the base in a way that is not known.
    pub(crate) fn read(config: &'a PeftConfig<'a>, variant: Variant) -> Result<Option<Self>, NotApplicable> {
        if !config.is("LORA") {
            return Ok(None);
        }
        let dora = config.is_on("use_dora")?;
        // PEFT takes what it started from off the base again when it loads an adapter
        let taken = match config.get("init_lora_weights") {
            Value::Null | Value::Bool(_) => Variant::Plain,
            Value::String(init) => match init.as_str() {
                // A and B alone are drawn another way
                "gaussian" | "orthogonal" | "eva" => Variant::Plain,
                "pissa" => Variant::Pissa,
                randomised if randomised.starts_with("pissa_niter_") => {
                    return Err(NotApplicable::new(format!(
                        "`init_lora_weights` = \"{randomised}\" is not supported: what was taken off the base was drawn, \
                         and is not in the file (PEFT draws it anew whenever it loads the adapter); save it with \
                         path_initial_model_for_weight_conversion, which makes it an adapter of the base itself"
                    )));
                }
                "olora" => Variant::Olora,
                _ => return Err(config.unsupported("init_lora_weights")),
            },
            _ => return Err(config.unsupported("init_lora_weights")),
        };
        if dora && taken != Variant::Plain {
            return Err(NotApplicable::new(format!(
                "`init_lora_weights` = {} is not supported together with `use_dora`",
                config.get("init_lora_weights")
            )));
        }
        let found = match (dora, taken, config.is_on("use_rslora")?) {
            (true, ..) => Variant::Dora,
            (false, Variant::Plain, true) => Variant::RsLora,
            (false, taken, _) => taken,
        };
        Ok((found == variant).then_some(Self(config)))
    }

    /// Whether the update is scaled by the rank's root.
    pub(crate) fn use_rslora(&self) -> Result<bool, NotApplicable> {
        self.0.is_on("use_rslora")
    }

    /// `r`
    pub(crate) fn rank(&self) -> Result<usize, NotApplicable> {
        self.0.integer("r", 8)
    }

    /// `lora_alpha`
    pub(crate) fn alpha(&self) -> Result<f64, NotApplicable> {
        self.0.number("lora_alpha", 8.0)
    }

    /// `lora_dropout`
    pub(crate) fn dropout(&self) -> Result<f64, NotApplicable> {
        self.0.number("lora_dropout", 0.0)
    }

    /// Ranks and α of single projections.
    pub(crate) fn patterns(&self) -> Result<RankPatterns, NotApplicable> {
        self.0.patterns()
    }

    /// The projections.
    pub(crate) fn selection(&self) -> Result<Selection, NotApplicable> {
        self.0.selection()
    }

    /// Whether B has a bias.
    pub(crate) fn lora_bias(&self) -> Result<bool, NotApplicable> {
        self.0.is_on("lora_bias")
    }

    /// `bias`, as `T` names its values.
    pub(crate) fn bias<T: serde::de::DeserializeOwned>(&self, none: T) -> Result<T, NotApplicable> {
        self.0.value("bias", none)
    }
}

/// An `adapter_config.json` of PEFT's LoRA; a variant adds its options.
pub fn lora_config(low_rank: &LowRank<'_>, outline: &Outline) -> Option<Value> {
    Some(json!({
        "peft_type": "LORA",
        "r": low_rank.rank,
        "lora_alpha": low_rank.alpha,
        "lora_dropout": low_rank.dropout,
        "target_modules": Targets::to_peft(&low_rank.select(outline).ok()?),
        "use_rslora": low_rank.by_root,
        "rank_pattern": low_rank.patterns.rank_pattern,
        "alpha_pattern": low_rank.patterns.alpha_pattern,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
    }))
}
