use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peftlab_layers::{Context, Initializer, Inner, Merged, Model, ProjectionAdapter, ProjectionInfo};
use peftlab_ops::linear;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checks::check_rank;
use super::low_rank::{QUERY_VALUE, attach_ranked};
use crate::rank_patterns::{ALPHA_PATTERN, RANK_PATTERN, Ranked};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, RankPatterns,
    Selection, Targets,
};

/// LoHa: the elementwise product of two low-rank updates.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoHa {
    /// r
    pub rank: usize,
    /// α; the update is scaled by α/r.
    pub alpha: f64,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
    /// Ranks and α of single projections.
    #[serde(flatten)]
    pub patterns: RankPatterns,
}

impl Default for LoHa {
    fn default() -> Self {
        Self { rank: 8, alpha: 8.0, selection: Selection::default(), patterns: RankPatterns::NONE }
    }
}

impl LoHa {
    fn targets<'o>(&self, outline: &'o Outline) -> Result<Vec<Ranked<'o>>, NotApplicable> {
        check_rank("rank", self.rank)?;
        self.patterns.of_each(self.selection.select(&QUERY_VALUE, outline)?, self.rank, self.alpha)
    }
}

impl Method for LoHa {
    const CARD: Card = Card {
        name: "loha",
        title: "LoHa",
        family: Family::Reparameterized,
        paper: "Hyeon-Woo, Ye-Bin & Oh 2021, arXiv 2108.06098; Yeh et al. 2023, arXiv 2309.14859",
        summary: "y = x W + b + (α/r) x ((W₁ₐ W₁ᵦ) ⊙ (W₂ₐ W₂ᵦ))ᵀ with W₁ₐ, W₂ₐ [out, r] and W₁ᵦ, W₂ᵦ [r, in]: the \
                  update's rank can be r². All start Kaiming-uniform but W₂ᵦ, which is zero. The dense update is made \
                  in every pass.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank", "8", "r"),
            ("alpha", "8", "α; the update is scaled by α/r"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
            RANK_PATTERN,
            ALPHA_PATTERN,
        ],
    };

    fn label(&self) -> String {
        format!("loha r={} {}", self.rank, self.selection.label("q,v"))
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let each = self.targets(outline)?;
        Ok(Count::all(each.iter().map(|at| 2 * at.rank * (at.info.input + at.info.output)).sum()))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        attach_ranked(model, &self.targets(outline)?, |projection, at| {
            let ProjectionInfo { input, output, .. } = projection.info;
            let Ranked { rank, alpha, .. } = at;
            Ok(LoHaAdapter {
                hada_w1_a: kaiming_rows(init, [output, rank]),
                hada_w1_b: kaiming_rows(init, [rank, input]),
                hada_w2_a: kaiming_rows(init, [output, rank]),
                hada_w2_b: init.constant(0.0, [rank, input]),
                scale: alpha / rank as f64,
            })
        })
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        if !config.is("LOHA") {
            return Ok(None);
        }
        Ok(Some(Self {
            rank: config.integer("r", 8)?,
            alpha: config.number("alpha", 8.0)?,
            selection: config.selection()?,
            patterns: config.patterns()?,
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        Some(json!({
            "peft_type": "LOHA",
            "r": self.rank,
            "alpha": self.alpha,
            "rank_dropout": 0.0,
            "module_dropout": 0.0,
            "use_effective_conv2d": false,
            "target_modules": Targets::to_peft(&self.selection.select(&QUERY_VALUE, outline).ok()?),
            "rank_pattern": self.patterns.rank_pattern,
            "alpha_pattern": self.patterns.alpha_pattern,
            "init_weights": true,
        }))
    }
}

/// Kaiming-uniform as [`Initializer::kaiming`], for a matrix in the Hub's layout, `[out, in]`.
pub(crate) fn kaiming_rows(init: &mut Initializer, [output, input]: [usize; 2]) -> Param<Tensor<2>> {
    init.uniform((input as f64).powf(-0.5), [output, input])
}

/// LoHa's tensors at one projection.
#[derive(Module, Debug)]
struct LoHaAdapter {
    /// `[out, r]`
    hada_w1_a: Param<Tensor<2>>,
    /// `[r, in]`
    hada_w1_b: Param<Tensor<2>>,
    /// `[out, r]`
    hada_w2_a: Param<Tensor<2>>,
    /// `[r, in]`
    hada_w2_b: Param<Tensor<2>>,
    #[module(skip)]
    scale: f64,
}

impl LoHaAdapter {
    /// The update of the weight, `[in, out]`.
    fn update(&self) -> Tensor<2> {
        let first = (self.hada_w1_a.val() * self.scale).matmul(self.hada_w1_b.val());
        let second = self.hada_w2_a.val().matmul(self.hada_w2_b.val());
        (first * second).transpose()
    }
}

impl ProjectionAdapter for LoHaAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        inner.forward(input.clone()) + linear(input, self.update(), None)
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        Some(weights.plus(self.update()))
    }
}
