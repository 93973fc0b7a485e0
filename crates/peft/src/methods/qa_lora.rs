#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use burn::module::Module;
use burn::tensor::Tensor;
use peftlab_layers::{
    Context, Initializer, Inner, Linear, Merged, Model, ProjectionAdapter, ProjectionInfo, Role, Weight,
};
use peftlab_ops::Scheme;
use serde::{Deserialize, Serialize};

use super::low_rank::{BLOCKS, LowRank, attach};
use super::qlora::pack_blocks;
use crate::rank_patterns::NO_PATTERNS;
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, Selection};

/// QA-LoRA: LoRA over pooled groups of inputs, which merges into the zero points of a quantised base.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QaLora {
    /// r
    pub rank: usize,
    /// α; the update is scaled by α/r.
    pub alpha: f64,
    /// Dropout on the pooled input.
    pub dropout: f64,
    /// Projections that get an update; every linear of the blocks if absent.
    #[serde(flatten)]
    pub selection: Selection,
    /// G: inputs that share a scale, a zero point, and one input of the update.
    pub group_size: usize,
    /// What becomes of the inputs of a group.
    pub pool: Pool,
}

/// How the inputs of a group become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// Their sum, as in the paper's equations.
    #[default]
    Sum,
    /// Their mean, as in the authors' code.
    Mean,
}

impl Default for QaLora {
    fn default() -> Self {
        Self {
            rank: 64,
            alpha: 16.0,
            dropout: 0.0,
            selection: Selection::default(),
            group_size: 32,
            pool: Pool::Sum,
        }
    }
}

impl QaLora {
    fn low_rank(&self) -> LowRank<'_> {
        LowRank {
            rank: self.rank,
            alpha: self.alpha,
            by_root: false,
            patterns: &NO_PATTERNS,
            dropout: self.dropout,
            selection: &self.selection,
            roles: &BLOCKS,
        }
    }

    /// The targets, after a check that groups divide the inputs of every linear that is quantised.
    fn targets<'o>(&self, outline: &'o Outline) -> Result<Vec<&'o ProjectionInfo>, NotApplicable> {
        let group = self.group_size;
        if group == 0 {
            return Err(NotApplicable::new(
                "group_size is 0; it must be 1 or more, and is 32 in the paper's code",
            ));
        }
        let mut quantised = outline.projections.iter().filter(|p| p.role != Role::Head);
        if let Some(p) = quantised.find(|p| p.input % group != 0) {
            return Err(NotApplicable::new(format!(
                "group_size is {group}, which does not divide the {} inputs of `{}`; use a divisor",
                p.input, p.name
            )));
        }
        let targets = self.low_rank().select(outline)?;
        match targets.iter().find(|p| p.role == Role::Head) {
            None => Ok(targets),
            Some(p) => Err(NotApplicable::new(format!(
                "target_modules: `{}` is not quantised, and `qa-lora` acts on quantised linears; leave it out",
                p.name
            ))),
        }
    }
}

impl Method for QaLora {
    const CARD: Card = Card {
        name: "qa-lora",
        title: "QA-LoRA",
        family: Family::Reparameterized,
        paper: "Xu et al. 2023, arXiv 2309.14717",
        summary: "The base's linears are four-bit integers with a scale and a zero point for each group of G inputs of \
                  each output, Ŵ = scale (q − zero); the update reads one value a group, y = x Ŵ + (α/r) pool(x) A B \
                  with A [in/G, r]. Every input of a group gets the same update, so it merges into the zero points, \
                  which are no integers: the merged model has four bits still. `pool = \"mean\"` is the authors' \
                  code; with the same A and B both differ by the factor G.",
        identity: Identity::Quantised,
        merge: MergeKind::ZeroPoints,
        not_for: "Networks with a linear whose inputs G does not divide.",
        settings: &[
            ("rank", "64", "r"),
            ("alpha", "16", "α; the update is scaled by α/r"),
            ("dropout", "0", "dropout on the pooled input"),
            (
                "target_modules",
                "every linear of the blocks",
                "names, a regular expression, or \"all-linear\"",
            ),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
            ("group_size", "32", "G"),
            ("pool", "\"sum\"", "\"sum\" or \"mean\" over a group's inputs"),
        ],
    };

    fn label(&self) -> String {
        let targets = self.selection.label("all");
        format!("qa-lora G={} r={} {targets}", self.group_size, self.rank)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let targets = self.targets(outline)?;
        Ok(Count::all(targets.iter().map(|p| self.rank * (p.input / self.group_size + p.output)).sum()))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let targets = self.targets(outline)?;
        pack_blocks(model, Scheme::Groups { group: self.group_size });
        attach(model, &targets, |projection| {
            let groups = projection.info.input / self.group_size;
            // Xavier-uniform, as in the authors' code
            let bound = (6.0 / (groups + self.rank) as f64).sqrt();
            Ok(QaLoraAdapter {
                lora_A: Linear { weight: init.uniform(bound, [groups, self.rank]), bias: None },
                lora_B: Linear {
                    weight: init.constant(0.0, [self.rank, projection.info.output]),
                    bias: None,
                },
                scale: self.low_rank().scale(),
                dropout: self.dropout,
                group: self.group_size,
                mean: self.pool == Pool::Mean,
            })
        })
    }
}

/// QA-LoRA's tensors at one projection.
#[derive(Module, Debug)]
struct QaLoraAdapter {
    /// `[in / group, r]`
    lora_A: Linear,
    /// `[r, out]`
    lora_B: Linear,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    group: usize,
    #[module(skip)]
    mean: bool,
}

impl ProjectionAdapter for QaLoraAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let [batch, length, width] = input.dims();
        let groups = width / self.group;
        let grouped = input.clone().reshape([batch, length, groups, self.group]);
        let pooled = if self.mean { grouped.mean_dim(3) } else { grouped.sum_dim(3) };
        let pooled = inner.context.dropout(pooled.reshape([batch, length, groups]), self.dropout);
        inner.forward(input) + self.lora_B.forward(self.lora_A.forward(pooled) * self.scale)
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        let Weight::Packed(packed) = &weights.weight else { return None };
        let scale = if self.mean { self.scale / self.group as f64 } else { self.scale };
        // `[in / group, out]`, and the zeros lie output by output
        let update = self.lora_A.weight.val().matmul(self.lora_B.weight.val()) * scale;
        let update = update.transpose().flatten::<1>(0, 1).detach();
        let zeros = packed.zeros() - update / packed.scales();
        Some(Merged { weight: Weight::Packed(packed.with_zeros(zeros)), ..weights })
    }
}
