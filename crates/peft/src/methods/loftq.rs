use burn::module::Param;
use burn::tensor::{DType, Tensor};
use peftlab_layers::{Initializer, Linear, Model};
use peftlab_ops::{Packed, Scheme};
use serde::{Deserialize, Serialize};

use super::decomposition::{Decomposition, balanced};
use super::low_rank::{BLOCKS, LoraAdapter, LowRank};
use super::pissa::wide_enough;
use super::qlora::{QuantType, check_block, pack_blocks};
use crate::rank_patterns::NO_PATTERNS;
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, Selection};

/// LoftQ: QLoRA whose update starts from what quantisation lost.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoftQ {
    /// r
    pub rank: usize,
    /// α; the update is scaled by α/r, and its start is made for that scale.
    pub alpha: f64,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// Projections that get an update; every linear of the blocks if absent.
    #[serde(flatten)]
    pub selection: Selection,
    /// The four-bit type.
    pub quant_type: QuantType,
    /// Whether the scales are quantised to eight bits, too.
    pub double_quant: bool,
    /// Values that share a scale.
    pub block_size: usize,
    /// T: how often quantisation and decomposition alternate; 0 is QLoRA.
    pub iterations: usize,
}

impl Default for LoftQ {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 16.0,
            dropout: 0.0,
            selection: Selection::default(),
            quant_type: QuantType::Nf4,
            double_quant: false,
            block_size: 64,
            iterations: 5,
        }
    }
}

impl LoftQ {
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
}

/// A quantised weight `[out, in]` with its low-rank correction `[in, r]`, `[r, out]`, such that `deq(Q)ᵀ + scale A B`
/// is near `weight` `[in, out]`.
fn alternate(
    weight: &Tensor<2>,
    rank: usize,
    scale: f64,
    scheme: Scheme,
    iterations: usize,
    init: &mut Initializer,
) -> (Packed, Option<(Tensor<2>, Tensor<2>)>) {
    // in f32, as what is unpacked is
    let weight = weight.clone().detach().cast(DType::F32);
    let mut factors: Option<(Tensor<2>, Tensor<2>)> = None;
    let mut packed = Packed::quantise(&weight.clone().transpose(), scheme);
    for round in 0..iterations {
        if let (Some((a, b)), true) = (&factors, round > 0) {
            let rest = weight.clone() - a.clone().matmul(b.clone()) * scale;
            packed = Packed::quantise(&rest.transpose(), scheme);
        }
        let lost = weight.clone() - packed.unpack().transpose();
        factors = Some(balanced(&lost, rank, scale, Decomposition::Exact, init));
    }
    (packed, factors)
}

impl Method for LoftQ {
    const CARD: Card = Card {
        name: "loftq",
        title: "LoftQ",
        family: Family::Reparameterized,
        paper: "Li et al. 2023, arXiv 2310.08659",
        summary: "QLoRA whose update starts from what quantisation lost: T times in turn, Q = quantise(W − s A B) and \
                  s A B = the best approximation of rank r of W − deq(Q). Unlike the reference's, the start is made \
                  for the scale s = α/r, so that α needs not equal r.",
        identity: Identity::No,
        merge: MergeKind::Exact,
        not_for: "Projections narrower than the rank.",
        settings: &[
            ("rank", "16", "r"),
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
            ("quant_type", "\"nf4\"", "\"nf4\", \"fp4\" or \"int4\""),
            ("double_quant", "false", "quantise the scales to eight bits, too"),
            ("block_size", "64", "values that share a scale"),
            ("iterations", "5", "T; 0 is QLoRA"),
        ],
    };

    fn label(&self) -> String {
        let targets = self.selection.label("all");
        format!("loftq {} r={} {targets}", self.quant_type.label(self.double_quant), self.rank)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        check_block(self.block_size)?;
        wide_enough(&self.low_rank(), outline)?;
        Ok(Count::all(self.low_rank().count(outline)?))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let scheme = self.quant_type.scheme(self.block_size, self.double_quant);
        let low_rank = self.low_rank();
        let mut dense = Vec::new();
        for projection in model.sites().projections {
            dense.push((projection.info.name.clone(), projection.weight()));
        }
        pack_blocks(model, scheme);
        low_rank.attach(model, outline, |projection, at| {
            let start = at.init(&projection.info, init);
            let weight =
                dense.iter().find(|(name, _)| *name == projection.info.name).map(|(_, weight)| weight);
            let Some(weight) = weight else { return start };
            let (packed, factors) = alternate(weight, at.rank, at.scale(), scheme, self.iterations, init);
            projection.set_packed(packed);
            let Some((a, b)) = factors else { return start };
            LoraAdapter {
                lora_A: Linear { weight: Param::from_tensor(a), bias: None },
                lora_B: Linear { weight: Param::from_tensor(b), bias: None },
                ..start
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn what_is_lost_shrinks_with_the_rounds() {
        let device = Device::flex();
        let mut init = Initializer::new(3, &device);
        let weight = init.normal(0.02, [64, 48]).val().detach();
        let weight = Tensor::<2>::from_data(
            TensorData::new(weight.into_data().iter::<f32>().collect::<Vec<_>>(), [64, 48]),
            &device,
        );
        let scheme = QuantType::Nf4.scheme(64, false);
        let mut lost = |iterations| {
            let (packed, factors) = alternate(&weight, 8, 2.0, scheme, iterations, &mut init);
            let mut rest = weight.clone() - packed.unpack().transpose();
            if let Some((a, b)) = factors {
                rest = rest - a.matmul(b) * 2.0;
            }
            rest.square().sum().into_scalar::<f32>().sqrt()
        };
        let [plain, one, five] = [0, 1, 5].map(&mut lost);
        assert!(one < 0.95 * plain && five < one, "{plain} {one} {five}");
    }
}
