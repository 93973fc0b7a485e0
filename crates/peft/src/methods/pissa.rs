use burn::module::Param;
use peftlab_layers::{Initializer, Linear, Model};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::decomposition::{Decomposition, balanced};
use super::low_rank::{LoraAdapter, LowRank, PeftLora, QUERY_VALUE, Variant, lora_config};
use crate::rank_patterns::{ALPHA_PATTERN, RANK_PATTERN};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, RankPatterns,
    Selection,
};

/// PiSSA: LoRA that starts from the weight's leading singular vectors, which are taken off the frozen weight.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pissa {
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
    /// Rounds of randomised subspace iteration; a full decomposition if absent.
    pub iterations: Option<usize>,
}

impl Default for Pissa {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            use_rslora: false,
            dropout: 0.0,
            selection: Selection::default(),
            patterns: RankPatterns::NONE,
            iterations: None,
        }
    }
}

impl Pissa {
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

/// An error where a target is narrower than its rank.
pub(crate) fn wide_enough(low_rank: &LowRank<'_>, outline: &Outline) -> Result<(), NotApplicable> {
    let updates = low_rank.updates(outline)?;
    match updates.iter().find(|(p, at)| p.input.min(p.output) < at.rank) {
        None => Ok(()),
        Some((p, at)) => Err(NotApplicable::new(format!(
            "rank is {}, but `{}` is {} x {}: it has no more singular values than the smaller of both",
            at.rank, p.name, p.input, p.output
        ))),
    }
}

impl Method for Pissa {
    const CARD: Card = Card {
        name: "pissa",
        title: "PiSSA",
        family: Family::Reparameterized,
        paper: "Meng, Wang & Zhang 2024, arXiv 2404.02948",
        summary: "LoRA that starts from the weight's best approximation of rank r: with W = U Σ Vᵀ and s = α/r, \
                  A = U_r √(Σ_r/s) and B = √(Σ_r/s) V_rᵀ are trained, and W − s A B is frozen.",
        identity: Identity::Within(1e-4),
        merge: MergeKind::Exact,
        not_for: "Projections narrower than the rank.",
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
            (
                "iterations",
                "none",
                "rounds of randomised subspace iteration, in place of a full decomposition",
            ),
        ],
    };

    fn label(&self) -> String {
        format!("pissa r={} {}", self.rank, self.selection.label("q,v"))
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        wide_enough(&self.low_rank(), outline)?;
        Ok(Count::all(self.low_rank().count(outline)?))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let low_rank = self.low_rank();
        let how = self.iterations.map_or(Decomposition::Exact, Decomposition::Randomised);
        low_rank.attach(model, outline, |projection, at| {
            let weight = projection.weight();
            let (a, b) = balanced(&weight, at.rank, at.scale(), how, init);
            let dtype = weight.dtype();
            let taken = a.clone().matmul(b.clone()) * at.scale();
            projection.set_weight((weight.cast(taken.dtype()) - taken).cast(dtype));
            LoraAdapter {
                lora_A: Linear { weight: Param::from_tensor(a), bias: None },
                lora_B: Linear { weight: Param::from_tensor(b), bias: None },
                scale: at.scale(),
                dropout: self.dropout,
            }
        })
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        let Some(lora) = PeftLora::read(config, Variant::Pissa)? else { return Ok(None) };
        Ok(Some(Self {
            rank: lora.rank()?,
            alpha: lora.alpha()?,
            use_rslora: lora.use_rslora()?,
            dropout: lora.dropout()?,
            selection: lora.selection()?,
            patterns: lora.patterns()?,
            iterations: None,
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        // PEFT would take something else off the base than what was drawn here
        if self.iterations.is_some() {
            return None;
        }
        let mut config = lora_config(&self.low_rank(), outline)?;
        config["init_lora_weights"] = "pissa".into();
        Some(config)
    }
}
