use peftlab_layers::params::ParamInfo;
use peftlab_layers::{Initializer, Model};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::low_rank::{LowRank, QUERY_VALUE, lora_config};
use crate::rank_patterns::{ALPHA_PATTERN, RANK_PATTERN};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, RankPatterns, Selection,
};

/// LoRA+: LoRA with a larger learning rate for B than for A.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraPlus {
    /// r
    pub rank: usize,
    /// α; the update is scaled by α/r.
    pub alpha: f64,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// λ, B's learning rate over A's.
    pub ratio: f64,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
    /// Ranks and α of single projections.
    #[serde(flatten)]
    pub patterns: RankPatterns,
}

impl Default for LoraPlus {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            ratio: 16.0,
            selection: Selection::default(),
            patterns: RankPatterns::NONE,
        }
    }
}

impl LoraPlus {
    fn low_rank(&self) -> LowRank<'_> {
        LowRank {
            rank: self.rank,
            alpha: self.alpha,
            by_root: false,
            patterns: &self.patterns,
            dropout: self.dropout,
            selection: &self.selection,
            roles: &QUERY_VALUE,
        }
    }

    fn check(&self) -> Result<(), NotApplicable> {
        match self.ratio.is_finite() && self.ratio > 0.0 {
            true => Ok(()),
            false => Err(NotApplicable::new(format!(
                "ratio is {}; it must be above 0, and is usually 1 or more",
                self.ratio
            ))),
        }
    }
}

/// Whether `parameter` is a vector: a bias of the task's head.
fn is_vector(parameter: &ParamInfo) -> bool {
    parameter.shape.len() == 1
}

impl Method for LoraPlus {
    const CARD: Card = Card {
        name: "lora-plus",
        title: "LoRA+",
        family: Family::Reparameterized,
        paper: "Hayou et al. 2024, arXiv 2402.12354",
        summary: "LoRA, y = x W + b + (α/r) drop(x) A B, with the learning rate η for A and λ η for B. As in its reference, \
                  trained vectors, the biases of a task's head, go with B, without weight decay.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank", "8", "r"),
            ("alpha", "8", "α; the update is scaled by α/r"),
            ("dropout", "0", "dropout on the input of the update"),
            ("ratio", "16", "λ, B's learning rate over A's"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
            RANK_PATTERN,
            ALPHA_PATTERN,
        ],
    };

    fn label(&self) -> String {
        let targets = self.selection.label("q,v");
        format!("lora-plus r={} ratio={} {targets}", self.rank, self.ratio)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        self.check()?;
        Ok(Count::all(self.low_rank().count(outline)?))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        self.check()?;
        let low_rank = self.low_rank();
        low_rank.attach(model, outline, |projection, at| at.init(&projection.info, init))
    }

    fn learning_rate_factor(&self, parameter: &ParamInfo) -> f64 {
        let is_b = parameter.name.ends_with("lora_B.weight");
        if is_b || is_vector(parameter) { self.ratio } else { 1.0 }
    }

    fn decays(&self, parameter: &ParamInfo) -> bool {
        !is_vector(parameter)
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        lora_config(&self.low_rank(), outline)
    }
}
