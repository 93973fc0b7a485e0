#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peftlab_layers::{Context, Initializer, Inner, Linear, Merged, Model, ProjectionAdapter};
use peftlab_ops::cast_like;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::low_rank::{LoraAdapter, LowRank, PeftLora, QUERY_VALUE, Variant, lora_config};
use crate::rank_patterns::{ALPHA_PATTERN, RANK_PATTERN};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, RankPatterns,
    Selection,
};

/// DoRA: LoRA on the direction of every output's weights, and a trained magnitude.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dora {
    /// r
    pub rank: usize,
    /// α; the update is scaled by α/r.
    pub alpha: f64,
    /// Whether the update is scaled by α/√r, as rsLoRA's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub use_rslora: bool,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
    /// Ranks and α of single projections.
    #[serde(flatten)]
    pub patterns: RankPatterns,
}

impl Default for Dora {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            use_rslora: false,
            dropout: 0.0,
            selection: Selection::default(),
            patterns: RankPatterns::NONE,
        }
    }
}

impl Dora {
    fn low_rank(&self) -> LowRank<'_> {
        LowRank {
            rank: self.rank,
            alpha: self.alpha,
            by_root: self.use_rslora,
            patterns: &self.patterns,
            dropout: self.dropout,
            selection: &self.selection,
            roles: &QUERY_VALUE,
        }
    }
}

impl Method for Dora {
    const CARD: Card = Card {
        name: "dora",
        title: "DoRA",
        family: Family::Reparameterized,
        paper: "Liu et al. 2024, arXiv 2402.09353",
        summary: "y = (m / ‖V‖) ⊙ (x V) + b with V = W + (α/r) A B, the norm of each output's weights, and a trained \
                  magnitude m that starts at ‖W‖. No gradient goes through the norm, as in the paper's section 4.3. \
                  The dense V is made once in each forward pass, for its norm.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank", "8", "r"),
            ("alpha", "8", "α; the update is scaled by α/r"),
            ("use_rslora", "false", "scale by α/√r, as rsLoRA does"),
            ("dropout", "0", "dropout on the input of the update"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
            RANK_PATTERN,
            ALPHA_PATTERN,
        ],
    };

    fn label(&self) -> String {
        format!("dora r={} {}", self.rank, self.selection.label("q,v"))
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let magnitudes: usize = self.low_rank().select(outline)?.iter().map(|p| p.output).sum();
        Ok(Count::all(self.low_rank().count(outline)? + magnitudes))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let low_rank = self.low_rank();
        low_rank.attach(model, outline, |projection, at| {
            let LoraAdapter { lora_A, lora_B, scale, dropout } = at.init(&projection.info, init);
            let weight = projection.weight();
            // through the same sum as later on, so that magnitude over norm is one to the bit
            let direction = direction(weight, low_rank_update(&lora_A, &lora_B, scale));
            let magnitude = Param::from_tensor(norms(direction));
            DoraAdapter { lora_A, lora_B, lora_magnitude_vector: magnitude, scale, dropout }
        })
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        let Some(lora) = PeftLora::read(config, Variant::Dora)? else { return Ok(None) };
        Ok(Some(Self {
            rank: lora.rank()?,
            alpha: lora.alpha()?,
            use_rslora: lora.use_rslora()?,
            dropout: lora.dropout()?,
            selection: lora.selection()?,
            patterns: lora.patterns()?,
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        let mut config = lora_config(&self.low_rank(), outline)?;
        config["use_dora"] = true.into();
        Some(config)
    }
}

/// DoRA's tensors at one projection.
#[derive(Module, Debug)]
struct DoraAdapter {
    lora_A: Linear,
    lora_B: Linear,
    /// `[out]`
    lora_magnitude_vector: Param<Tensor<1>>,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    dropout: f64,
}

fn low_rank_update(a: &Linear, b: &Linear, scale: f64) -> Tensor<2> {
    a.weight.val().matmul(b.weight.val()) * scale
}

/// `W + update`, `[in, out]`, without gradients.
fn direction(weight: Tensor<2>, update: Tensor<2>) -> Tensor<2> {
    let update = update.detach();
    weight.cast(update.dtype()) + update
}

/// The norm of each output's weights: `[in, out]` to `[out]`.
fn norms(weight: Tensor<2>) -> Tensor<1> {
    weight.square().sum_dim(0).sqrt().flatten(0, 1)
}

impl DoraAdapter {
    fn update(&self) -> Tensor<2> {
        low_rank_update(&self.lora_A, &self.lora_B, self.scale)
    }
}

impl ProjectionAdapter for DoraAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let norms = norms(direction(inner.weight(), self.update()));
        let ratio = cast_like(self.lora_magnitude_vector.val() / norms, &input).unsqueeze::<3>();
        let dropped = inner.context.dropout(input.clone(), self.dropout);
        let update = self.lora_B.forward(self.lora_A.forward(dropped) * self.scale);
        let output = inner.forward(input);
        // the bias is not scaled
        let linear = match inner.bias() {
            Some(bias) => output.clone() - cast_like(bias, &output).unsqueeze(),
            None => output.clone(),
        };
        output + linear * (ratio.clone() - 1.0) + update * ratio
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        let magnitude = self.lora_magnitude_vector.val();
        Some(weights.with_weight(|weight| {
            let direction = direction(weight, self.update());
            let ratio = magnitude / norms(direction.clone());
            direction * ratio.unsqueeze()
        }))
    }
}
