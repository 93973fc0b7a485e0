use peftlab_layers::{Initializer, Model};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::low_rank::{LORA_BIAS, LowRank, PeftLora, QUERY_VALUE, Variant, lora_config};
use crate::rank_patterns::{ALPHA_PATTERN, RANK_PATTERN};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, RankPatterns,
    Selection,
};

/// rsLoRA: LoRA with a scale that keeps the update's size for every rank.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RsLora {
    /// r
    pub rank: usize,
    /// α; the update is scaled by α/√r.
    pub alpha: f64,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
    /// Ranks and α of single projections.
    #[serde(flatten)]
    pub patterns: RankPatterns,
    /// Whether B has a bias, which is trained and scaled with the update.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lora_bias: bool,
}

impl Default for RsLora {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            selection: Selection::default(),
            patterns: RankPatterns::NONE,
            lora_bias: false,
        }
    }
}

impl RsLora {
    fn low_rank(&self) -> LowRank<'_> {
        LowRank {
            rank: self.rank,
            alpha: self.alpha,
            by_root: true,
            patterns: &self.patterns,
            dropout: self.dropout,
            selection: &self.selection,
            roles: &QUERY_VALUE,
        }
    }
}

impl Method for RsLora {
    const CARD: Card = Card {
        name: "rslora",
        title: "rsLoRA",
        family: Family::Reparameterized,
        paper: "Kalajdzievski 2023, arXiv 2312.03732",
        summary: "LoRA with the scale α/√r in place of α/r: y = x W + b + (α/√r) drop(x) A B, so that the update's \
                  size and gradient do not shrink as the rank grows.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank", "8", "r"),
            ("alpha", "8", "α; the update is scaled by α/√r"),
            ("dropout", "0", "dropout on the input of the update"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
            RANK_PATTERN,
            ALPHA_PATTERN,
            LORA_BIAS,
        ],
    };

    fn label(&self) -> String {
        format!("rslora r={} {}", self.rank, self.selection.label("q,v"))
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let of_b = if self.lora_bias { self.low_rank().biases(outline)? } else { 0 };
        Ok(Count::all(self.low_rank().count(outline)? + of_b))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let low_rank = self.low_rank();
        low_rank.attach(model, outline, |projection, at| {
            let adapter = at.init(&projection.info, init);
            if self.lora_bias { adapter.with_bias(init) } else { adapter }
        })
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        let Some(lora) = PeftLora::read(config, Variant::RsLora)? else { return Ok(None) };
        Ok(Some(Self {
            rank: lora.rank()?,
            alpha: lora.alpha()?,
            dropout: lora.dropout()?,
            selection: lora.selection()?,
            patterns: lora.patterns()?,
            lora_bias: lora.lora_bias()?,
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        let mut config = lora_config(&self.low_rank(), outline)?;
        config["lora_bias"] = self.lora_bias.into();
        Some(config)
    }
}
