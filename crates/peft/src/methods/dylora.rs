#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use std::ops::RangeInclusive;

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use peftlab_layers::{
    Context, Initializer, Inner, Linear, Merged, Mode, Model, ProjectionAdapter, ProjectionInfo,
};
use peftlab_ops::linear;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::checks::check_rank;
use super::low_rank::{LoraAdapter, LowRank, QUERY_VALUE};
use crate::rank_patterns::NO_PATTERNS;
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Course, Family, Identity, MergeKind, Method, NotApplicable, Outline, Policy, Selection,
    adapters_mut,
};

/// DyLoRA: LoRA that is trained for every rank at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DyLora {
    /// r, the largest rank.
    pub rank: usize,
    /// α; the update is scaled by α over the rank in use.
    pub alpha: f64,
    /// The smallest rank.
    pub rank_min: usize,
    /// The rank in evaluation and after merging; the largest if absent.
    pub evaluate_rank: Option<usize>,
    /// Whether a step trains the last of its ranks alone.
    pub frozen: bool,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
}

impl Default for DyLora {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            rank_min: 1,
            evaluate_rank: None,
            frozen: false,
            dropout: 0.0,
            selection: Selection::default(),
        }
    }
}

impl DyLora {
    fn low_rank(&self) -> LowRank<'_> {
        LowRank {
            rank: self.rank,
            alpha: self.alpha,
            by_root: false,
            patterns: &NO_PATTERNS,
            dropout: self.dropout,
            selection: &self.selection,
            roles: &QUERY_VALUE,
        }
    }

    /// The rank in evaluation.
    fn evaluated(&self) -> usize {
        self.evaluate_rank.unwrap_or(self.rank)
    }

    fn check(&self) -> Result<(), NotApplicable> {
        check_rank("rank", self.rank)?;
        check_rank("rank_min", self.rank_min)?;
        check_rank("evaluate_rank", self.evaluated())?;
        for (key, rank) in [("rank_min", self.rank_min), ("evaluate_rank", self.evaluated())] {
            if rank > self.rank {
                return Err(NotApplicable::new(format!(
                    "{key} is {rank}, but the largest rank, `rank`, is {}",
                    self.rank
                )));
            }
        }
        Ok(())
    }
}

impl Method for DyLora {
    const CARD: Card = Card {
        name: "dylora",
        title: "DyLoRA",
        family: Family::Reparameterized,
        paper: "Valipour et al. 2022, arXiv 2210.07558",
        summary: "LoRA whose rank b is drawn anew for every training step, uniformly from rank_min to r: \
                  y = x W + b + (α/b) drop(x) A[:, :b] B[:b, :], so that it can be cut off at any rank afterwards. With \
                  `frozen` only column b of A and row b of B get a gradient; momentum and weight decay move the others \
                  all the same.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank", "8", "r, the largest rank"),
            ("alpha", "8", "α; the update is scaled by α over the rank in use"),
            ("rank_min", "1", "the smallest rank"),
            ("evaluate_rank", "rank", "the rank in evaluation and after merging"),
            ("frozen", "false", "a step trains the last of its ranks alone"),
            ("dropout", "0", "dropout on the input of the update"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
        ],
    };

    fn label(&self) -> String {
        let frozen = if self.frozen { " frozen" } else { "" };
        let targets = self.selection.label("q,v");
        format!("dylora{frozen} r={}..{} at {} {targets}", self.rank_min, self.rank, self.evaluated())
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        self.check()?;
        let low_rank = self.low_rank();
        let width = |p: &ProjectionInfo| p.input + p.output;
        let stored = low_rank.select(outline)?.into_iter().map(|p| self.evaluated() * width(p)).sum();
        Ok(Count { adapter: low_rank.count(outline)?, stored, buffers: 0 })
    }

    fn kept_values(&self, name: &str, shape: &[usize]) -> usize {
        let values: usize = shape.iter().product();
        // what lies beyond the rank of evaluation can be cut off
        match name.contains(".lora_") {
            true => values / self.rank * self.evaluated(),
            false => values,
        }
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        self.check()?;
        let low_rank = self.low_rank();
        low_rank.attach(model, outline, |projection, at| {
            let LoraAdapter { lora_A, lora_B, .. } = at.init(&projection.info, init);
            DyLoraAdapter {
                lora_A,
                lora_B,
                alpha: self.alpha,
                dropout: self.dropout,
                evaluated: self.evaluated(),
                drawn: self.rank,
            }
        })
    }

    fn policy(&self, course: Course) -> Option<Box<dyn Policy>> {
        Some(Box::new(Ranks::new(self.rank_min..=self.rank, self.frozen, course.seed)))
    }
}

/// DyLoRA's tensors at one projection.
#[derive(Module, Debug)]
struct DyLoraAdapter {
    lora_A: Linear,
    lora_B: Linear,
    #[module(skip)]
    alpha: f64,
    #[module(skip)]
    dropout: f64,
    /// The rank in evaluation.
    #[module(skip)]
    evaluated: usize,
    /// The rank of this step.
    #[module(skip)]
    drawn: usize,
}

impl DyLoraAdapter {
    /// `[in, rank]` and `[rank, out]`, whose product times the scale is the update cut off at `rank`.
    fn factors(&self, rank: usize) -> (Tensor<2>, Tensor<2>, f64) {
        let (a, b) = (self.lora_A.weight.val(), self.lora_B.weight.val());
        let ([input, _], [_, output]) = (a.dims(), b.dims());
        (a.slice([0..input, 0..rank]), b.slice([0..rank, 0..output]), self.alpha / rank as f64)
    }
}

impl ProjectionAdapter for DyLoraAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let rank = match inner.context.mode() {
            Mode::Train => self.drawn,
            Mode::Evaluate => self.evaluated,
        };
        let (a, b, scale) = self.factors(rank);
        let dropped = inner.context.dropout(input.clone(), self.dropout);
        inner.forward(input) + linear(linear(dropped, a, None) * scale, b, None)
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        let (a, b, scale) = self.factors(self.evaluated);
        Some(weights.plus(a.matmul(b) * scale))
    }
}

/// Draws the rank of every step, the same for all projections.
struct Ranks {
    ranks: RangeInclusive<usize>,
    frozen: bool,
    rng: ChaCha8Rng,
    drawn: usize,
}

/// Keeps the stream apart from others that are made from the run's seed.
const STREAM: u64 = 0x6479_6c6f_7261;

impl Ranks {
    fn new(ranks: RangeInclusive<usize>, frozen: bool, seed: u64) -> Self {
        let drawn = *ranks.end();
        Self { ranks, frozen, rng: ChaCha8Rng::seed_from_u64(seed ^ STREAM), drawn }
    }

    fn draw(&mut self) -> usize {
        self.drawn = self.rng.random_range(self.ranks.clone());
        self.drawn
    }
}

impl Policy for Ranks {
    fn before_step(&mut self, model: &mut Model, _: usize) {
        let drawn = self.draw();
        for (_, adapter) in adapters_mut::<DyLoraAdapter>(model) {
            adapter.drawn = drawn;
        }
    }

    fn gradients(&mut self, model: &mut Model, mut gradients: GradientsParams) -> GradientsParams {
        if !self.frozen {
            return gradients;
        }
        for (_, adapter) in adapters_mut::<DyLoraAdapter>(model) {
            keep_only(&mut gradients, &adapter.lora_A.weight, 1, self.drawn - 1);
            keep_only(&mut gradients, &adapter.lora_B.weight, 0, self.drawn - 1);
        }
        gradients
    }
}

/// Zeroes the gradient of `param` but for `index` along `dim`.
fn keep_only(gradients: &mut GradientsParams, param: &Param<Tensor<2>>, dim: usize, index: usize) {
    let Some(gradient) = gradients.remove::<2>(param.id) else { return };
    let mut shape = [1, 1];
    shape[dim] = gradient.dims()[dim];
    let mut kept = vec![0f32; shape[dim]];
    kept[index] = 1.0;
    let kept = Tensor::from_data(TensorData::new(kept, shape), (&gradient.device(), gradient.dtype()));
    gradients.register(param.id, gradient * kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_drawn_uniformly_and_again_with_the_same_seed() {
        let draws = |seed| {
            let mut ranks = Ranks::new(3..=10, false, seed);
            (0..16_000).map(|_| ranks.draw()).collect::<Vec<_>>()
        };
        let first = draws(7);
        assert_eq!(first, draws(7));
        assert_ne!(first, draws(8));
        for rank in 3..=10 {
            let count = first.iter().filter(|drawn| **drawn == rank).count();
            // five standard deviations around 2000
            assert!((1790..=2210).contains(&count), "rank {rank}: {count}");
        }
        assert!(first.iter().all(|rank| (3..=10).contains(rank)));
    }
}
