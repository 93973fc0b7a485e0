use peftlab_layers::{Initializer, Model, Role};
use peftlab_ops::codec::Levels;
use peftlab_ops::{Packed, Scheme};
use serde::{Deserialize, Serialize};

use super::low_rank::{BLOCKS, LowRank};
use crate::rank_patterns::{ALPHA_PATTERN, RANK_PATTERN};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, RankPatterns, Selection,
};

/// QLoRA: LoRA on a base whose linears are packed in four bits.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QLora {
    /// r
    pub rank: usize,
    /// α; the update is scaled by α/r.
    pub alpha: f64,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// Projections that get an update; every linear of the blocks if absent.
    #[serde(flatten)]
    pub selection: Selection,
    /// Ranks and α of single projections.
    #[serde(flatten)]
    pub patterns: RankPatterns,
    /// The four-bit type.
    pub quant_type: QuantType,
    /// Whether the scales are quantised to eight bits, too.
    pub double_quant: bool,
    /// Values that share a scale.
    pub block_size: usize,
}

/// A type of four bits, as bitsandbytes names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuantType {
    /// Quantiles of the normal distribution.
    #[default]
    Nf4,
    /// A sign, two bits of exponent, one of fraction.
    Fp4,
    /// Evenly spaced and symmetric.
    Int4,
}

impl QuantType {
    /// Blocks of `block` values of this type.
    pub(crate) fn scheme(self, block: usize, double: bool) -> Scheme {
        let levels = match self {
            Self::Nf4 => Levels::Nf4,
            Self::Fp4 => Levels::Fp4,
            Self::Int4 => Levels::Int4,
        };
        Scheme::Blocks { levels, block, double }
    }

    /// For a row's label.
    pub(crate) fn label(self, double: bool) -> String {
        let name = match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
            Self::Int4 => "int4",
        };
        format!("{name}{}", if double { "+dq" } else { "" })
    }
}

/// An error where `block` values cannot share a scale.
pub(crate) fn check_block(block: usize) -> Result<(), NotApplicable> {
    match block {
        0 => Err(NotApplicable::new("block_size is 0; it must be 1 or more, and is 64 in the paper")),
        _ => Ok(()),
    }
}

/// Packs the weights of all linears of the blocks; those of a task's head or of a language model's output layer stay
/// dense.
pub(crate) fn pack_blocks(model: &mut Model, scheme: Scheme) {
    for projection in model.sites().projections {
        if projection.info.role != Role::Head {
            projection.set_packed(Packed::quantise(&projection.weight().transpose(), scheme));
        }
    }
}

impl Default for QLora {
    fn default() -> Self {
        Self {
            rank: 64,
            alpha: 16.0,
            dropout: 0.0,
            selection: Selection::default(),
            patterns: RankPatterns::NONE,
            quant_type: QuantType::Nf4,
            double_quant: true,
            block_size: 64,
        }
    }
}

impl QLora {
    fn low_rank(&self) -> LowRank<'_> {
        LowRank {
            rank: self.rank,
            alpha: self.alpha,
            by_root: false,
            patterns: &self.patterns,
            dropout: self.dropout,
            selection: &self.selection,
            roles: &BLOCKS,
        }
    }
}

impl Method for QLora {
    const CARD: Card = Card {
        name: "qlora",
        title: "QLoRA",
        family: Family::Reparameterized,
        paper: "Dettmers et al. 2023, arXiv 2305.14314",
        summary: "LoRA on a base whose linears stay packed in four bits, y = x deq(q) + b + (α/r) x A B: blocks of 64 \
                  weights share a scale, with `double_quant` the scales are kept in eight bits. Codes, scales and \
                  values are bitsandbytes' to the bit. The dense weight is made for one product at a time, in the \
                  forward and again in the backward pass. Merging makes the weights dense; packing them again loses \
                  accuracy, and both are reported.",
        identity: Identity::Quantised,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank", "64", "r"),
            ("alpha", "16", "α; the update is scaled by α/r"),
            ("dropout", "0", "dropout on the input of the update"),
            (
                "target_modules",
                "every linear of the blocks",
                "names, a regular expression, or \"all-linear\"",
            ),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
            RANK_PATTERN,
            ALPHA_PATTERN,
            ("quant_type", "\"nf4\"", "\"nf4\", \"fp4\" or \"int4\""),
            ("double_quant", "true", "quantise the scales to eight bits, too"),
            ("block_size", "64", "values that share a scale"),
        ],
    };

    fn label(&self) -> String {
        let targets = self.selection.label("all");
        format!("qlora {} r={} {targets}", self.quant_type.label(self.double_quant), self.rank)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        check_block(self.block_size)?;
        Ok(Count::all(self.low_rank().count(outline)?))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        pack_blocks(model, self.quant_type.scheme(self.block_size, self.double_quant));
        let low_rank = self.low_rank();
        low_rank.attach(model, outline, |projection, at| at.init(&projection.info, init))
    }
}
