#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use peftlab_layers::{Context, Initializer, Inner, Merged, Model, ProjectionAdapter, ProjectionInfo};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checks::{check_decay, check_dropout, check_interval, check_rank, check_weight};
use super::low_rank::{QUERY_VALUE, attach};
use super::triplets::{distances_from_orthogonal, through_triplets, triplets_product};
use crate::rank_patterns::ranks_left;
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Course, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, Policy,
    Selection, Targets, adapters_mut,
};

/// AdaLoRA: triplets of a low-rank update compete for a budget of ranks that shrinks during training.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaLora {
    /// r₀, the rank of every update at the start.
    pub init_rank: usize,
    /// The mean rank of the updates at the end.
    pub target_rank: usize,
    /// α; the update is scaled by α/r₀.
    pub alpha: f64,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// Decay of the smoothed sensitivity.
    pub beta1: f64,
    /// Decay of the smoothed uncertainty.
    pub beta2: f64,
    /// Steps at the start in which no rank is taken away.
    pub t_init: usize,
    /// Steps at the end in which the ranks stay as they are.
    pub t_final: usize,
    /// Ranks are given out anew every so many steps.
    pub delta_t: usize,
    /// Steps that the three phases are planned for; those of the run if absent.
    pub total_steps: Option<usize>,
    /// γ, the weight of the term that keeps A and B orthogonal.
    pub orthogonality: f64,
    /// The form of that term.
    pub orthogonality_form: OrthogonalityForm,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
    /// Ranks that PEFT had left when it saved an adapter, by target; r₀ where there is none. Of a file, never of an
    /// experiment.
    #[serde(skip)]
    pub left: BTreeMap<String, usize>,
}

/// How far matrices are from orthogonal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrthogonalityForm {
    /// The squared Frobenius norms of `A Aᵀ − I` and `Bᵀ B − I`, summed over all updates.
    Paper,
    /// The norms themselves, averaged over all matrices.
    Peft,
}

impl Default for AdaLora {
    fn default() -> Self {
        Self {
            init_rank: 12,
            target_rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            beta1: 0.85,
            beta2: 0.85,
            t_init: 0,
            t_final: 0,
            delta_t: 1,
            total_steps: None,
            orthogonality: 0.1,
            orthogonality_form: OrthogonalityForm::Paper,
            selection: Selection::default(),
            left: BTreeMap::new(),
        }
    }
}

impl AdaLora {
    fn targets<'o>(&self, outline: &'o Outline) -> Result<Vec<&'o ProjectionInfo>, NotApplicable> {
        check_rank("init_rank", self.init_rank)?;
        check_rank("target_rank", self.target_rank)?;
        check_dropout(self.dropout)?;
        check_decay("beta1", self.beta1)?;
        check_decay("beta2", self.beta2)?;
        check_weight("orthogonality", self.orthogonality)?;
        if self.target_rank > self.init_rank {
            return Err(NotApplicable::new(format!(
                "target_rank is {} and init_rank {}, but ranks are only taken away; raise init_rank",
                self.target_rank, self.init_rank
            )));
        }
        check_interval("delta_t", self.delta_t)?;
        if let Some(total) = self.total_steps
            && total <= self.t_init + self.t_final
        {
            return Err(NotApplicable::new(format!(
                "total_steps is {total}, which t_init ({}) and t_final ({}) leave no step of in which ranks are \
                 taken away; raise total_steps, or lower t_init or t_final",
                self.t_init, self.t_final
            )));
        }
        let targets = self.selection.select(&QUERY_VALUE, outline)?;
        match self.left.keys().find(|name| !targets.iter().any(|target| target.name == **name)) {
            None => Ok(targets),
            Some(name) => Err(NotApplicable::new(format!(
                "`rank_pattern` names `{name}`, which is not among the targets; is it an adapter for another model?"
            ))),
        }
    }

    /// The rank at a target.
    fn rank(&self, target: &ProjectionInfo) -> usize {
        self.left.get(&target.name).copied().unwrap_or(self.init_rank)
    }

    fn scale(&self) -> f64 {
        self.alpha / (self.init_rank as f64 + 1e-5)
    }
}

impl Method for AdaLora {
    const CARD: Card = Card {
        name: "adalora",
        title: "AdaLoRA",
        family: Family::Reparameterized,
        paper: "Zhang et al. 2023, arXiv 2303.10512",
        summary: "y = x W + b + (α/r₀) drop(x) Aᵀ diag(E) Bᵀ with W frozen, A [r₀, in] and B [out, r₀] drawn \
                  N(0, 0.02²) and E [r₀] zero. A term of the loss keeps A and B orthogonal; between t_init and the last \
                  t_final steps the E of all but the b(t) most important triplets are set to zero, with b(t) falling \
                  cubically from r₀ to target_rank a target, and importance the smoothed sensitivity |w ∂L/∂w| times \
                  its uncertainty.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("init_rank", "12", "r₀, the rank of every update at the start"),
            ("target_rank", "8", "the mean rank of the updates at the end"),
            ("alpha", "8", "α; the update is scaled by α/r₀"),
            ("dropout", "0", "dropout on the input of the update"),
            ("beta1", "0.85", "decay of the smoothed sensitivity"),
            ("beta2", "0.85", "decay of the smoothed uncertainty"),
            ("t_init", "0", "steps at the start in which no rank is taken away"),
            ("t_final", "0", "steps at the end in which the ranks stay as they are"),
            ("delta_t", "1", "ranks are given out anew every so many steps"),
            ("total_steps", "the run's steps", "steps that the three phases are planned for"),
            ("orthogonality", "0.1", "γ, the weight of the term that keeps A and B orthogonal"),
            (
                "orthogonality_form",
                "\"paper\"",
                "\"paper\": squared Frobenius norms, summed; \"peft\": norms, averaged over all matrices",
            ),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
        ],
    };

    fn label(&self) -> String {
        let targets = self.selection.label("q,v");
        format!("adalora r={}→{} {targets}", self.init_rank, self.target_rank)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let targets = self.targets(outline)?;
        Ok(Count::all(targets.iter().map(|p| self.rank(p) * (p.input + p.output + 1)).sum()))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let mut targets = self.targets(outline)?;
        // where no rank is left there is no update
        targets.retain(|target| self.rank(target) > 0);
        attach(model, &targets, |projection| {
            let rank = self.rank(&projection.info);
            let ProjectionInfo { input, output, .. } = projection.info;
            Ok(AdaLoraAdapter {
                lora_A: init.normal(0.02, [rank, input]),
                lora_E: init.constant(0.0, [rank, 1]),
                lora_B: init.normal(0.02, [output, rank]),
                scale: self.scale(),
                dropout: self.dropout,
            })
        })
    }

    fn policy(&self, course: Course) -> Option<Box<dyn Policy>> {
        Some(Box::new(Allocation {
            schedule: Schedule::new(self, course.steps),
            settings: self.clone(),
            importance: Vec::new(),
            kept: Vec::new(),
        }))
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        if !config.is("ADALORA") {
            return Ok(None);
        }
        // PEFT has no use for the first of them here, and the second is of tensors that the file has
        config.get("r");
        config.is_on("init_lora_weights")?;
        let init_rank = config.integer("init_r", 12)?;
        let alpha = config.number("lora_alpha", 8.0)?;
        let left = ranks_left(config, init_rank)?;
        if alpha <= 0.0 && !left.is_empty() {
            // PEFT scales by the rank that is left over r₀ then
            return Err(config.unsupported("lora_alpha"));
        }
        Ok(Some(Self {
            init_rank,
            target_rank: config.integer("target_r", 8)?,
            alpha: if alpha > 0.0 { alpha } else { init_rank as f64 },
            dropout: config.number("lora_dropout", 0.0)?,
            beta1: config.number("beta1", 0.85)?,
            beta2: config.number("beta2", 0.85)?,
            t_init: config.integer("tinit", 0)?,
            t_final: config.integer("tfinal", 0)?,
            delta_t: config.integer("deltaT", 1)?,
            total_steps: config.value("total_step", None)?,
            orthogonality: config.number("orth_reg_weight", 0.5)?,
            orthogonality_form: OrthogonalityForm::Peft,
            selection: config.selection()?,
            left,
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        Some(json!({
            "peft_type": "ADALORA",
            "init_r": self.init_rank,
            "target_r": self.target_rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "tinit": self.t_init,
            "tfinal": self.t_final,
            "deltaT": self.delta_t,
            // PEFT refuses a file without one, or with one that leaves no step between the phases
            "total_step": self.total_steps.unwrap_or(self.t_init + self.t_final + 1),
            "orth_reg_weight": self.orthogonality,
            "target_modules": Targets::to_peft(&self.targets(outline).ok()?),
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
        }))
    }
}

/// AdaLoRA's tensors at one projection, in PEFT's layout.
#[derive(Module, Debug)]
struct AdaLoraAdapter {
    /// `[r₀, in]`
    lora_A: Param<Tensor<2>>,
    /// `[r₀, 1]`
    lora_E: Param<Tensor<2>>,
    /// `[out, r₀]`
    lora_B: Param<Tensor<2>>,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    dropout: f64,
}

impl AdaLoraAdapter {
    /// Zeroes the values of E that are not `kept`.
    fn mask(&mut self, kept: &[bool]) {
        let values = self.lora_E.val().into_data();
        let masked = values.iter::<f32>().zip(kept).map(|(value, kept)| if *kept { value } else { 0.0 });
        let data = TensorData::new(masked.collect::<Vec<f32>>(), [kept.len(), 1]);
        let trained = self.lora_E.is_require_grad();
        self.lora_E = self
            .lora_E
            .clone()
            .map(|old| Tensor::from_data(data, (&old.device(), old.dtype())).set_require_grad(trained));
    }
}

impl ProjectionAdapter for AdaLoraAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let (a, e, b) = (self.lora_A.val(), self.lora_E.val(), self.lora_B.val());
        let dropped = inner.context.dropout(input.clone(), self.dropout);
        inner.forward(input) + through_triplets(dropped, a, e, b, self.scale)
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        let update = triplets_product(self.lora_A.val(), self.lora_E.val(), self.lora_B.val());
        Some(weights.plus(update * self.scale))
    }
}

/// When ranks are taken away, and how many.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    /// The last step before ranks are taken away.
    start: usize,
    /// The step after which the ranks stay.
    end: usize,
}

impl Schedule {
    /// A run that is too short for its phases keeps one step in which ranks are taken away.
    fn new(settings: &AdaLora, steps: usize) -> Self {
        let end = settings.total_steps.unwrap_or(steps).saturating_sub(settings.t_final).max(1);
        Self { start: settings.t_init.min(end - 1), end }
    }

    /// Ranks that are left after `step`, from 1, of all of `initial`.
    fn budget(self, step: usize, initial: usize, target: usize) -> usize {
        if step <= self.start {
            return initial;
        }
        if step >= self.end {
            return target;
        }
        let left = 1.0 - (step - self.start) as f64 / (self.end - self.start) as f64;
        ((initial as f64 - target as f64) * left.powf(3.0) + target as f64) as usize
    }
}

/// The triplets that are kept for `budget` ranks: those above the score of the best one that is not. Equal scores go
/// together.
fn keep(scores: &[f32], budget: usize) -> Vec<bool> {
    let Some(last) = scores.len().saturating_sub(budget).checked_sub(1) else {
        return vec![true; scores.len()];
    };
    let mut sorted = scores.to_vec();
    sorted.sort_by(f32::total_cmp);
    scores.iter().map(|score| *score > sorted[last]).collect()
}

/// The smoothed sensitivity of a tensor's values, and its smoothed deviation.
struct Importance {
    sensitivity: Tensor<2>,
    uncertainty: Tensor<2>,
}

impl Importance {
    fn score(&self) -> Tensor<2> {
        self.sensitivity.clone() * self.uncertainty.clone()
    }
}

/// Gives out ranks after every step.
struct Allocation {
    settings: AdaLora,
    schedule: Schedule,
    /// Of A, E and B at every target; empty before the first step, and after the last that takes ranks away.
    importance: Vec<[Importance; 3]>,
    /// Of all targets' triplets, the ones that are kept.
    kept: Vec<bool>,
}

impl Allocation {
    fn observe(&mut self, adapters: &[(&str, &mut AdaLoraAdapter)], gradients: &GradientsParams) {
        let AdaLora { beta1, beta2, .. } = self.settings;
        let mut before = std::mem::take(&mut self.importance).into_iter();
        let observed = adapters.iter().map(|(_, adapter)| {
            let mut before = before.next().into_iter().flatten();
            [&adapter.lora_A, &adapter.lora_E, &adapter.lora_B].map(|param| {
                let value = param.val().inner();
                let now = match gradients.get::<2>(param.id) {
                    Some(gradient) => (value * gradient).abs(),
                    None => value.zeros_like(),
                };
                let Importance { sensitivity, uncertainty } = before.next().unwrap_or_else(|| Importance {
                    sensitivity: now.zeros_like(),
                    uncertainty: now.zeros_like(),
                });
                let sensitivity = sensitivity * beta1 + now.clone() * (1.0 - beta1);
                let deviation = (now - sensitivity.clone()).abs();
                Importance { sensitivity, uncertainty: uncertainty * beta2 + deviation * (1.0 - beta2) }
            })
        });
        self.importance = observed.collect();
    }

    /// The score of every triplet: its E's, and the means of its row's of A and of its column's of B.
    fn scores(&self) -> Vec<f32> {
        let scores = self.importance.iter().map(|[a, e, b]| {
            let rows = a.score().mean_dim(1);
            let columns = b.score().mean_dim(0).transpose();
            e.score() + (rows + columns)
        });
        Tensor::cat(scores.collect(), 0).into_data().iter::<f32>().collect()
    }
}

impl Policy for Allocation {
    fn extra_loss(&self, model: &mut Model) -> Option<Tensor<1>> {
        if self.settings.orthogonality == 0.0 {
            return None;
        }
        let distances: Vec<Tensor<1>> = adapters_mut::<AdaLoraAdapter>(model)
            .into_iter()
            .flat_map(|(_, adapter)| distances_from_orthogonal(adapter.lora_A.val(), adapter.lora_B.val()))
            .collect();
        if distances.is_empty() {
            return None;
        }
        let distances = Tensor::cat(distances, 0);
        let term = match self.settings.orthogonality_form {
            OrthogonalityForm::Paper => distances.sum(),
            // the root has no slope at zero
            OrthogonalityForm::Peft => (distances + 1e-30).sqrt().mean(),
        };
        Some(term * self.settings.orthogonality)
    }

    fn after_step(&mut self, model: &mut Model, gradients: &GradientsParams, step: usize) {
        let Schedule { start, end } = self.schedule;
        let mut adapters = adapters_mut::<AdaLoraAdapter>(model);
        if adapters.is_empty() {
            return;
        }
        if step < end || (step == end && self.importance.is_empty()) {
            self.observe(&adapters, gradients);
        }
        let allocates =
            step == end || (start < step && step < end && step.is_multiple_of(self.settings.delta_t));
        if allocates {
            let scores = self.scores();
            let target = self.settings.target_rank * adapters.len();
            self.kept = keep(&scores, self.schedule.budget(step, scores.len(), target));
        }
        if step >= end {
            self.importance.clear();
        }
        // the optimizer moves what was zeroed before, and after the last allocation it is zeroed every time
        if (allocates || step > end) && !self.kept.is_empty() {
            let mut rest = self.kept.as_slice();
            for (_, adapter) in &mut adapters {
                let (kept, others) = rest.split_at(adapter.lora_E.dims()[0]);
                adapter.mask(kept);
                rest = others;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_falls_along_a_cubic_from_all_ranks_to_the_target() {
        let settings = AdaLora { t_init: 10, t_final: 20, ..AdaLora::default() };
        let schedule = Schedule::new(&settings, 100);
        let at = |step| schedule.budget(step, 48, 32);
        assert_eq!([at(1), at(10)], [48, 48]);
        // halfway 1/8 of the difference is left: 16 / 8 + 32; after 14 of 70 steps 0.8³, 8.192 + 32
        assert_eq!([at(45), at(24)], [34, 40]);
        assert_eq!([at(80), at(81), at(100)], [32, 32, 32]);
        assert!((1..100).all(|step| at(step + 1) <= at(step)));
    }

    #[test]
    fn a_run_that_is_too_short_for_its_phases_takes_ranks_away_all_the_same() {
        let settings = AdaLora { t_init: 10, t_final: 20, ..AdaLora::default() };
        for steps in [0, 1, 15, 30] {
            let schedule = Schedule::new(&settings, steps);
            assert!(schedule.start < schedule.end, "{schedule:?}");
            assert_eq!(schedule.budget(schedule.end, 48, 32), 32);
        }
    }

    #[test]
    fn the_best_triplets_are_kept_and_all_of_them_where_the_budget_allows() {
        assert_eq!(keep(&[0.3, 0.1, 0.4, 0.2], 2), [true, false, true, false]);
        assert_eq!(keep(&[0.3, 0.1], 2), [true, true]);
        assert_eq!(keep(&[0.3, 0.1], 5), [true, true]);
        // those that are as good as the best one that is not kept go with it
        assert_eq!(keep(&[0.3, 0.1, 0.1, 0.2], 3), [true, false, false, true]);
    }
}
