use peftlab_layers::params::ParamInfo;
use peftlab_layers::{Initializer, Model};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::low_rank::{LORA_BIAS, LowRank, PeftLora, QUERY_VALUE, Variant, lora_config};
use crate::rank_patterns::{ALPHA_PATTERN, RANK_PATTERN};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, RankPatterns,
    Selection,
};

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
    #[serde(flatten)]
    pub selection: Selection,
    /// Ranks and α of single projections.
    #[serde(flatten)]
    pub patterns: RankPatterns,
    /// Whether B has a bias, which is trained and scaled with the update.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lora_bias: bool,
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
            selection: Selection::default(),
            patterns: RankPatterns::NONE,
            lora_bias: false,
            bias: LoraBias::None,
        }
    }
}

impl Lora {
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
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
            RANK_PATTERN,
            ALPHA_PATTERN,
            LORA_BIAS,
            ("bias", "\"none\"", "biases trained besides: \"none\", \"all\" or \"lora_only\""),
        ],
    };

    fn label(&self) -> String {
        format!("lora r={} {}", self.rank, self.selection.label("q,v"))
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let biases: usize = match self.bias {
            LoraBias::None => 0,
            LoraBias::LoraOnly => {
                self.low_rank().select(outline)?.iter().filter(|p| p.bias).map(|p| p.output).sum()
            }
            LoraBias::All => {
                outline.body().filter(|info| info.name.ends_with(".bias")).map(ParamInfo::elements).sum()
            }
        };
        let of_b = if self.lora_bias { self.low_rank().biases(outline)? } else { 0 };
        Ok(Count::all(self.low_rank().count(outline)? + of_b + biases))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let low_rank = self.low_rank();
        low_rank.attach(model, outline, |projection, at| {
            if self.bias == LoraBias::LoraOnly {
                projection.bias = projection.bias.take().map(|bias| bias.set_require_grad(true));
            }
            let adapter = at.init(&projection.info, init);
            if self.lora_bias { adapter.with_bias(init) } else { adapter }
        })
    }

    fn trains(&self, parameter: &ParamInfo) -> bool {
        self.bias == LoraBias::All && parameter.name.ends_with(".bias")
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        let Some(lora) = PeftLora::read(config, Variant::Plain)? else { return Ok(None) };
        Ok(Some(Self {
            rank: lora.rank()?,
            alpha: lora.alpha()?,
            dropout: lora.dropout()?,
            selection: lora.selection()?,
            patterns: lora.patterns()?,
            lora_bias: lora.lora_bias()?,
            bias: lora.bias(LoraBias::None)?,
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        let mut config = lora_config(&self.low_rank(), outline)?;
        config["bias"] = json!(self.bias);
        config["lora_bias"] = json!(self.lora_bias);
        Some(config)
    }
}
