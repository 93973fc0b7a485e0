#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor, TensorData};
use peftlab_layers::{
    Context, Initializer, Inner, Merged, Model, ProjectionAdapter, ProjectionInfo, name_hash,
};
use peftlab_ops::BasisStream;
use serde::{Deserialize, Serialize};

use super::checks::{check_decay, check_interval, check_rank, check_weight};
use super::low_rank::{QUERY_VALUE, attach};
use super::triplets::{distances_from_orthogonal, through_triplets, triplets_product};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Course, Family, Identity, MergeKind, Method, NotApplicable, Outline, Policy, Selection,
    adapters_mut,
};

/// IncreLoRA: updates of rank one grow where they matter most.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IncreLora {
    /// The rank of every update at the start.
    pub rank_start: usize,
    /// The mean rank of the updates at the end.
    pub rank_target: usize,
    /// α; the update is scaled by α over `rank_target`.
    pub alpha: f64,
    /// Ranks are added every so many steps.
    pub grow_every: usize,
    /// To so many projections, one each.
    pub grow_modules: usize,
    /// Decay of the smoothed importance.
    pub beta1: f64,
    /// Decay of its smoothed deviation.
    pub beta2: f64,
    /// The weight of the term that keeps A and B orthogonal.
    pub orthogonality: f64,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
}

impl Default for IncreLora {
    fn default() -> Self {
        Self {
            rank_start: 1,
            rank_target: 8,
            alpha: 8.0,
            grow_every: 10,
            grow_modules: 4,
            beta1: 0.85,
            beta2: 0.85,
            orthogonality: 0.1,
            selection: Selection::default(),
        }
    }
}

impl IncreLora {
    fn targets<'o>(&self, outline: &'o Outline) -> Result<Vec<&'o ProjectionInfo>, NotApplicable> {
        check_rank("rank_start", self.rank_start)?;
        if self.rank_target < self.rank_start {
            return Err(NotApplicable::new(format!(
                "rank_target is {} and rank_start {}, but ranks are only added; raise rank_target",
                self.rank_target, self.rank_start
            )));
        }
        check_interval("grow_every", self.grow_every)?;
        if self.grow_modules == 0 {
            return Err(NotApplicable::new(
                "grow_modules is 0, and no update would ever grow; use 1 or more",
            ));
        }
        check_decay("beta1", self.beta1)?;
        check_decay("beta2", self.beta2)?;
        check_weight("orthogonality", self.orthogonality)?;
        self.selection.select(&QUERY_VALUE, outline)
    }
}

impl Method for IncreLora {
    const CARD: Card = Card {
        name: "increlora",
        title: "IncreLoRA",
        family: Family::Reparameterized,
        paper: "Zhang et al. 2023, arXiv 2308.12043",
        summary: "y = x W + b + (α/r) Σ_i x A_iᵀ E_i B_iᵀ with W frozen, A_i [1, in] and B_i [out, 1] drawn N(0, 0.02²) \
                  and E_i zero, over rank_start triplets at first. Every grow_every steps the grow_modules most \
                  important projections get another one, until there are rank_target times as many as projections; \
                  one more waits at each, kept orthogonal by a term of the loss, with E frozen at zero. Importance is \
                  the smoothed mean of |w ∂L/∂w| times its uncertainty. How the paper weighs that term, averages the \
                  importance and schedules the learning rate of new triplets could not be verified: here they follow \
                  the run's schedule.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank_start", "1", "the rank of every update at the start"),
            ("rank_target", "8", "r, the mean rank of the updates at the end"),
            ("alpha", "8", "α; the update is scaled by α/r"),
            ("grow_every", "10", "ranks are added every so many steps"),
            ("grow_modules", "4", "to so many projections, one each"),
            ("beta1", "0.85", "decay of the smoothed importance"),
            ("beta2", "0.85", "decay of its smoothed deviation"),
            ("orthogonality", "0.1", "the weight of the term that keeps A and B orthogonal"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
        ],
    };

    fn label(&self) -> String {
        let targets = self.selection.label("q,v");
        format!("increlora r={}→{} {targets}", self.rank_start, self.rank_target)
    }

    /// What is trained at the start, reserves included; what is stored at the end, as if all targets were of the same
    /// size: which of them grow is not known before.
    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let targets = self.targets(outline)?;
        let triplets: usize = targets.iter().map(|p| p.input + p.output + 1).sum();
        Ok(Count {
            adapter: (self.rank_start + 1) * triplets - targets.len(),
            stored: self.rank_target * triplets,
            buffers: targets.len(),
        })
    }

    fn grows(&self) -> bool {
        true
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let count = self.rank_start + 1;
        attach(model, &self.targets(outline)?, |projection| {
            let ProjectionInfo { input, output, .. } = projection.info;
            let mut adapter = IncreLoraAdapter {
                lora_A: (0..count).map(|_| init.normal(0.02, [1, input])).collect(),
                lora_E: (0..count).map(|_| init.constant(0.0, [1, 1])).collect(),
                lora_B: (0..count).map(|_| init.normal(0.02, [output, 1])).collect(),
                active: self.rank_start,
                scale: self.alpha / self.rank_target as f64,
            };
            adapter.train_reserve(false);
            Ok(adapter)
        })
    }

    fn policy(&self, _: Course) -> Option<Box<dyn Policy>> {
        Some(Box::new(Growth { settings: self.clone(), smoothed: Vec::new() }))
    }
}

/// IncreLoRA's triplets at one projection; the last is the reserve.
#[derive(Module, Debug)]
struct IncreLoraAdapter {
    /// `[1, in]` each.
    lora_A: Vec<Param<Tensor<2>>>,
    /// `[1, 1]` each.
    lora_E: Vec<Param<Tensor<2>>>,
    /// `[out, 1]` each.
    lora_B: Vec<Param<Tensor<2>>>,
    #[module(skip)]
    active: usize,
    #[module(skip)]
    scale: f64,
}

fn joined(params: &[Param<Tensor<2>>], dim: usize) -> Tensor<2> {
    Tensor::cat(params.iter().map(Param::val).collect(), dim)
}

impl IncreLoraAdapter {
    /// A `[active, in]`, E `[active, 1]` and B `[out, active]`.
    fn triplets(&self) -> [Tensor<2>; 3] {
        let part = |params: &[Param<Tensor<2>>], dim| joined(&params[..self.active], dim);
        [part(&self.lora_A, 0), part(&self.lora_E, 0), part(&self.lora_B, 1)]
    }

    /// `[in, out]`, without its scale.
    fn update(&self) -> Tensor<2> {
        let [a, e, b] = self.triplets();
        triplets_product(a, e, b)
    }

    /// How far all triplets, the reserve included, are from orthogonal, `[1]`.
    fn orthogonality(&self) -> Tensor<1> {
        let [a, b] = distances_from_orthogonal(joined(&self.lora_A, 0), joined(&self.lora_B, 1));
        a + b
    }

    /// The mean sensitivity of the active triplets, `[1]`.
    fn importance(&self, gradients: &GradientsParams) -> Tensor<1> {
        let sensitivity = |params: &[Param<Tensor<2>>], dim: usize| {
            let each = params[..self.active].iter().map(|param| {
                let value = param.val().inner();
                match gradients.get::<2>(param.id) {
                    Some(gradient) => (value * gradient).abs(),
                    None => value.zeros_like(),
                }
            });
            Tensor::cat(each.collect(), dim)
        };
        let a = sensitivity(&self.lora_A, 0).mean_dim(1);
        let b = sensitivity(&self.lora_B, 1).mean_dim(0).transpose();
        (a + sensitivity(&self.lora_E, 0) + b).mean()
    }

    /// Whether the last E is trained.
    fn train_reserve(&mut self, trained: bool) {
        if let Some(e) = self.lora_E.pop() {
            self.lora_E.push(e.set_require_grad(trained));
        }
    }

    /// Makes the reserve of the projection `name` a triplet like the others, and puts another in its place.
    fn grow(&mut self, name: &str) {
        let index = self.lora_E.len();
        let last = self.lora_A[index - 1].val();
        let (device, input) = (last.device(), last.dims()[1]);
        let output = self.lora_B[index - 1].val().dims()[0];
        let param = |values: Vec<f32>, shape: [usize; 2]| -> Param<Tensor<2>> {
            Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), (&device, DType::F32)))
        };
        self.train_reserve(true);
        self.lora_A.push(param(drawn(&format!("{name}.A.{index}"), input), [1, input]));
        self.lora_E.push(param(vec![0.0], [1, 1]));
        self.lora_B.push(param(drawn(&format!("{name}.B.{index}"), output), [output, 1]));
        self.train_reserve(false);
        self.active += 1;
    }
}

impl ProjectionAdapter for IncreLoraAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let [a, e, b] = self.triplets();
        inner.forward(input.clone()) + through_triplets(input, a, e, b, self.scale)
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        Some(weights.plus(self.update() * self.scale))
    }
}

/// `length` values uniform with variance 0.02², which `name` alone determines.
fn drawn(name: &str, length: usize) -> Vec<f32> {
    let bound = (0.02 * 3f64.sqrt()) as f32;
    let stream = BasisStream { key: name_hash(name), count: 1, length };
    stream.vector(0).map(|value| value * bound).collect()
}

/// Adds ranks after steps.
struct Growth {
    settings: IncreLora,
    /// Importance and its deviation at every target.
    smoothed: Vec<(f64, f64)>,
}

/// The positions of `scores`, the largest first; of equals the first one.
fn descending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
}

impl Policy for Growth {
    fn extra_loss(&self, model: &mut Model) -> Option<Tensor<1>> {
        if self.settings.orthogonality == 0.0 {
            return None;
        }
        let adapters = adapters_mut::<IncreLoraAdapter>(model);
        let terms: Vec<_> = adapters.iter().map(|(_, adapter)| adapter.orthogonality()).collect();
        (!terms.is_empty()).then(|| Tensor::cat(terms, 0).mean() * self.settings.orthogonality)
    }

    fn after_step(&mut self, model: &mut Model, gradients: &GradientsParams, step: usize) {
        let IncreLora { rank_target, grow_every, grow_modules, beta1, beta2, .. } = self.settings;
        let mut adapters = adapters_mut::<IncreLoraAdapter>(model);
        if adapters.is_empty() {
            return;
        }
        let now: Vec<_> = adapters.iter().map(|(_, adapter)| adapter.importance(gradients)).collect();
        let now = Tensor::cat(now, 0).into_data();
        self.smoothed.resize(adapters.len(), (0.0, 0.0));
        let observe = |(now, (mean, deviation)): (f32, &mut (f64, f64))| {
            let now = f64::from(now);
            *mean = beta1 * *mean + (1.0 - beta1) * now;
            *deviation = beta2 * *deviation + (1.0 - beta2) * (now - *mean).abs();
            *mean * *deviation
        };
        let scores: Vec<f64> = now.iter::<f32>().zip(&mut self.smoothed).map(observe).collect();
        if !step.is_multiple_of(grow_every) {
            return;
        }
        let active: usize = adapters.iter().map(|(_, adapter)| adapter.active).sum();
        let left = (rank_target * adapters.len()).saturating_sub(active);
        for target in descending(&scores).into_iter().take(grow_modules.min(left)) {
            let (name, adapter) = &mut adapters[target];
            adapter.grow(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_most_important_come_first_and_equals_in_order() {
        assert_eq!(descending(&[0.1, 0.5, 0.1, 0.7]), [3, 1, 0, 2]);
    }

    #[test]
    fn growing_adds_a_triplet_that_gives_nothing_yet() {
        let mut init = Initializer::new(0, &Device::flex().autodiff());
        let mut adapter = IncreLoraAdapter {
            lora_A: (0..2).map(|_| init.normal(0.02, [1, 5])).collect(),
            lora_E: vec![init.constant(0.3, [1, 1]), init.constant(0.0, [1, 1])],
            lora_B: (0..2).map(|_| init.normal(0.02, [3, 1])).collect(),
            active: 1,
            scale: 1.0,
        };
        adapter.train_reserve(false);
        let update =
            |adapter: &IncreLoraAdapter| adapter.update().into_data().iter::<f32>().collect::<Vec<_>>();
        let before = update(&adapter);
        adapter.grow("model.layers.0.self_attn.q_proj");
        assert_eq!((adapter.active, adapter.lora_A.len(), adapter.lora_B.len()), (2, 3, 3));
        assert_eq!(update(&adapter), before);
        let trained: Vec<bool> = adapter.lora_E.iter().map(|e| e.is_require_grad()).collect();
        assert_eq!(trained, [true, true, false]);
    }

    #[test]
    fn reserves_are_the_references() {
        let values = drawn("model.layers.0.self_attn.v_proj.A.2", 3);
        let expected = [0.023_639_945_f32, 0.011_849_859, 0.032_932_974];
        assert!(
            values.iter().zip(expected).all(|(value, expected)| (value - expected).abs() < 1e-8),
            "{values:?}"
        );
    }
}
