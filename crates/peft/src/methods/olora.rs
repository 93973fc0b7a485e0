use burn::module::Param;
use peftlab_layers::{Initializer, Linear, Model};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::decomposition::leading_qr;
use super::low_rank::{LoraAdapter, LowRank, PeftLora, QUERY_VALUE, Variant, lora_config};
use super::pissa::wide_enough;
use crate::rank_patterns::{ALPHA_PATTERN, RANK_PATTERN};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, RankPatterns,
    Selection,
};

/// OLoRA: LoRA that starts from the weight's QR decomposition, whose first columns are taken off the frozen weight.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Olora {
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

impl Default for Olora {
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

impl Olora {
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

impl Method for Olora {
    const CARD: Card = Card {
        name: "olora",
        title: "OLoRA",
        family: Family::Reparameterized,
        paper: "Büyükakyüz 2024, arXiv 2406.01775",
        summary: "LoRA that starts from the QR decomposition of the weight in the Hub's layout, Wᵀ = Q R: with s = α/r, \
                  A = R_rᵀ and B = Q_rᵀ are trained, r columns of Q and rows of R, and W − s A B is frozen.",
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
        ],
    };

    fn label(&self) -> String {
        format!("olora r={} {}", self.rank, self.selection.label("q,v"))
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
        let _ = init;
        low_rank.attach(model, outline, |projection, at| {
            let weight = projection.weight();
            let (q, r) = leading_qr(&weight.clone().transpose(), at.rank);
            let (a, b) = (r.transpose(), q.transpose());
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
        let Some(lora) = PeftLora::read(config, Variant::Olora)? else { return Ok(None) };
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
        config["init_lora_weights"] = "olora".into();
        Some(config)
    }
}
