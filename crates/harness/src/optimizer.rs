//! Optimizers and learning-rate schedules, with torch's defaults and names.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdafactorConfig, GradientsParams, ModuleOptimizer, Optimizer, SgdConfig};
use burn::tensor::{Device, Tensor};
use peftlab_layers::Model;
use peftlab_layers::params;
use peftlab_peft::{AdamConstants, DynMethod, Outline};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An optimizer with its constants; `name` says which one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimizerSpec {
    /// AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101) as `torch.optim.AdamW`.
    AdamW {
        /// Decay rates β₁ and β₂ of the gradient's first and second moment, each from 0 to below 1.
        #[serde(default = "default_betas")]
        betas: [f64; 2],
        /// ε, added to the root of the second moment, from 0.
        #[serde(default = "default_eps")]
        eps: f64,
        /// λ of the decoupled weight decay, from 0: a step takes learning rate × λ of a weight away.
        #[serde(default = "default_weight_decay")]
        weight_decay: f64,
    },
    /// Stochastic gradient descent with momentum, as `torch.optim.SGD` (no dampening, no Nesterov).
    Sgd {
        /// Factor of the momentum buffer, from 0; 0 keeps none.
        #[serde(default)]
        momentum: f64,
        /// L2 penalty from 0: so much of a weight is added to its gradient.
        #[serde(default)]
        weight_decay: f64,
    },
    /// Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) with the experiment's learning rate: no relative step,
    /// no scaling by the parameter, no first moment; what `transformers`' has with `relative_step` and
    /// `scale_parameter` off.
    Adafactor {
        /// λ of the decoupled weight decay, from 0.
        #[serde(default)]
        weight_decay: f64,
        /// Added to the squared gradient, above 0: `transformers`' `eps[0]`, whose `eps[1]` belongs to `scale_parameter`.
        #[serde(default = "default_adafactor_eps")]
        eps: f64,
        /// Largest root mean square of a tensor's update before the learning rate, above 0: larger ones are scaled down.
        #[serde(default = "default_clip_threshold")]
        clip_threshold: f64,
        /// The second moment's decay rate at step t is 1 - t to the power of this, which is below 0.
        #[serde(default = "default_decay_rate")]
        decay_rate: f64,
    },
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_eps() -> f64 {
    1e-8
}

fn default_weight_decay() -> f64 {
    0.01
}

fn default_adafactor_eps() -> f64 {
    1e-30
}

fn default_clip_threshold() -> f64 {
    1.0
}

fn default_decay_rate() -> f64 {
    -0.8
}

impl Default for OptimizerSpec {
    fn default() -> Self {
        Self::AdamW { betas: default_betas(), eps: default_eps(), weight_decay: default_weight_decay() }
    }
}

/// Parameters that the optimizer treats in one way.
struct Group {
    /// Factor on the learning rate.
    factor: f64,
    /// Whether weights decay.
    decays: bool,
    ids: Vec<ParamId>,
}

impl OptimizerSpec {
    /// The optimizer, with no state.
    pub fn init(&self) -> ModuleOptimizer {
        self.grouped(&[])
    }

    /// The optimizer for `model` with `method` attached: its learning rates, and what it puts in the optimizer's place.
    /// `everything` says whether biases and norms decay, too.
    pub fn for_method(
        &self,
        method: &dyn DynMethod,
        model: &Model,
        outline: &Outline,
        everything: bool,
    ) -> ModuleOptimizer {
        let mut groups: BTreeMap<(u64, bool), Vec<ParamId>> = BTreeMap::new();
        for info in params::infos(model).iter().filter(|info| info.trained) {
            let decays = method.decays(info) && (everything || !is_bias_or_norm(&info.name));
            let group = (method.learning_rate_factor(info), decays);
            if group != (1.0, true) {
                groups.entry((group.0.to_bits(), group.1)).or_default().push(info.id);
            }
        }
        let group = |((bits, decays), ids)| Group { factor: f64::from_bits(bits), decays, ids };
        let groups: Vec<Group> = groups.into_iter().map(group).collect();
        method.optimizer(self.grouped(&groups), self.constants(), model, outline)
    }

    fn grouped(&self, groups: &[Group]) -> ModuleOptimizer {
        match *self {
            Self::AdamW { .. } => {
                let constants = self.constants();
                let decay = |decays| if decays { constants.weight_decay } else { 0.0 };
                let adamw = |decays| AdamConstants { weight_decay: decay(decays), ..constants }.adamw();
                grouped(adamw, groups)
            }
            Self::Sgd { momentum, weight_decay } => {
                // Burn dampens the momentum by 0.1 unless told otherwise, torch does not
                let momentum = MomentumConfig::new().with_momentum(momentum).with_dampening(0.0);
                let momentum = (momentum.momentum > 0.0).then_some(momentum);
                let sgd = |decays: bool| {
                    let decay =
                        (decays && weight_decay > 0.0).then(|| WeightDecayConfig::new(weight_decay as f32));
                    SgdConfig::new().with_momentum(momentum.clone()).with_weight_decay(decay).build()
                };
                grouped(sgd, groups)
            }
            Self::Adafactor { weight_decay, eps, clip_threshold, decay_rate } => {
                let adafactor = |decays| {
                    AdafactorConfig::new()
                        .with_relative_step(false)
                        .with_scale_parameter(false)
                        .with_epsilon_1(eps as f32)
                        .with_clip_threshold(clip_threshold as f32)
                        .with_decay_rate(decay_rate)
                        .with_weight_decay(if decays { weight_decay as f32 } else { 0.0 })
                        .build()
                };
                grouped(adafactor, groups)
            }
        }
    }

    /// Why these constants make no optimizer, with the remedy.
    ///
    /// # Errors
    /// Where one of them is out of its range.
    pub fn check(&self) -> Result<(), String> {
        let at_least_0 = |key: &str, value: f64| match value.is_finite() && value >= 0.0 {
            true => Ok(()),
            false => Err(format!("optimizer: {key} is {value}; it must be 0 or more")),
        };
        let above_0 = |key: &str, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(format!("optimizer: {key} is {value}; it must be above 0")),
        };
        match *self {
            Self::AdamW { betas, eps, weight_decay } => {
                if let Some(beta) = betas.into_iter().find(|beta| !(0.0..1.0).contains(beta)) {
                    return Err(format!("optimizer: one of betas is {beta}; they must be from 0 to below 1"));
                }
                at_least_0("eps", eps)?;
                at_least_0("weight_decay", weight_decay)
            }
            Self::Sgd { momentum, weight_decay } => {
                at_least_0("momentum", momentum)?;
                at_least_0("weight_decay", weight_decay)
            }
            Self::Adafactor { weight_decay, eps, clip_threshold, decay_rate } => {
                // Burn keeps them in f32, where a smaller one is zero
                above_0("eps", f64::from(eps as f32))?;
                above_0("clip_threshold", f64::from(clip_threshold as f32))?;
                if !(decay_rate.is_finite() && decay_rate < 0.0) {
                    return Err(format!("optimizer: decay_rate is {decay_rate}; it must be below 0"));
                }
                at_least_0("weight_decay", weight_decay)
            }
        }
    }

    /// AdamW's constants; its defaults with another optimizer.
    fn constants(&self) -> AdamConstants {
        match *self {
            Self::AdamW { betas, eps, weight_decay } => AdamConstants { betas, eps, weight_decay },
            _ => AdamConstants {
                betas: default_betas(),
                eps: default_eps(),
                weight_decay: default_weight_decay(),
            },
        }
    }
}

/// Whether a parameter is a bias or a norm's weight, by its name, as `transformers`' `Trainer` tells them
/// (`get_decay_parameter_names`): it holds `bias`, `layernorm` or `rmsnorm`, or a part of it is `norm` or ends in `_norm`.
fn is_bias_or_norm(name: &str) -> bool {
    let name = name.to_lowercase();
    ["bias", "layernorm", "rmsnorm"].iter().any(|part| name.contains(part))
        || name.split('.').any(|part| part == "norm" || part.ends_with("_norm"))
}

/// One optimizer a group, and one for the rest; `optimizer` makes it with weight decay or without.
fn grouped<O: Optimizer>(optimizer: impl Fn(bool) -> O, groups: &[Group]) -> ModuleOptimizer {
    groups.iter().fold(optimizer(true).into(), |all: ModuleOptimizer, group| {
        let scaled = Scaled { optimizer: optimizer(group.decays), factor: group.factor };
        all.with_group(ParamGroup::from_ids(group.ids.clone()), scaled, None)
    })
}

/// An optimizer with a factor on its learning rate.
#[derive(Clone)]
struct Scaled<O> {
    optimizer: O,
    factor: f64,
}

impl<O: Optimizer> Optimizer for Scaled<O> {
    type State<const D: usize> = O::State<D>;

    fn step<const D: usize>(
        &self,
        learning_rate: f64,
        tensor: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        self.optimizer.step(learning_rate * self.factor, tensor, gradient, state)
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        O::to_device(state, device)
    }
}

/// How the learning rate goes over the steps, after a linear warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Stays at the peak.
    Constant,
    /// Falls linearly to zero at the last step.
    #[default]
    Linear,
    /// Falls to zero at the last step along half a cosine.
    Cosine,
}

impl Schedule {
    /// The factor on the learning rate at `step` (from 0) of `steps`, of which the first `warmup` rise linearly
    /// from zero, as in `transformers`.
    pub fn factor(self, step: usize, warmup: usize, steps: usize) -> f64 {
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let progress = (step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
        match self {
            Self::Constant => 1.0,
            Self::Linear => (1.0 - progress).max(0.0),
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos()),
        }
    }
}

/// Scales all gradients so that their global norm is at most `limit`; returns the norm before.
pub fn clip_global_norm<M: Module>(
    gradients: GradientsParams,
    module: &M,
    limit: f64,
) -> (GradientsParams, f64) {
    struct Squares<'a>(&'a GradientsParams, Option<Tensor<1>>);
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                let square = gradient.square().sum();
                self.1 = Some(self.1.take().map_or(square.clone(), |sum| sum + square));
            }
        }
    }
    struct Scale(GradientsParams, f64);
    impl ModuleVisitor for Scale {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.remove::<D>(param.id) {
                self.0.register(param.id, gradient * self.1);
            }
        }
    }
    let mut squares = Squares(&gradients, None);
    module.visit(&mut squares);
    let norm = squares.1.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()).sqrt());
    if norm <= limit {
        return (gradients, norm);
    }
    // as torch.nn.utils.clip_grad_norm_
    let mut scale = Scale(gradients, limit / (norm + 1e-6));
    module.visit(&mut scale);
    (scale.0, norm)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use serde_json::json;

    use super::*;

    #[derive(Module, Debug)]
    struct Two {
        a: Param<Tensor<1>>,
        b: Param<Tensor<1>>,
    }

    fn two(device: &Device) -> Two {
        let tensor = |values: Vec<f32>| Param::from_data(TensorData::new(values, [2]), device);
        Two { a: tensor(vec![1.0, -2.0]), b: tensor(vec![0.5, 3.0]) }
    }

    fn values(param: &Param<Tensor<1>>) -> Vec<f32> {
        param.val().into_data().iter::<f32>().collect()
    }

    /// Gradients `[3, 3]` and `[4, 4]`.
    fn gradients(module: &Two) -> GradientsParams {
        let loss = (module.a.val() * 3.0 + module.b.val() * 4.0).sum();
        GradientsParams::from_grads(loss.backward(), module)
    }

    #[test]
    fn schedules_are_transformers() {
        let at = |schedule: Schedule, step| schedule.factor(step, 2, 10);
        assert_eq!(
            [at(Schedule::Linear, 0), at(Schedule::Linear, 1), at(Schedule::Linear, 2)],
            [0.0, 0.5, 1.0]
        );
        assert_eq!(at(Schedule::Linear, 6), 0.5);
        assert!((at(Schedule::Cosine, 6) - 0.5).abs() < 1e-12);
        assert_eq!(at(Schedule::Constant, 9), 1.0);
    }

    #[test]
    fn biases_and_norms_are_told_by_their_names() {
        let left_out = [
            "bert.encoder.layer.0.attention.output.LayerNorm.weight",
            "bert.encoder.layer.0.output.dense.bias",
            "model.layers.3.input_layernorm.weight",
            "model.layers.3.self_attn.q_norm.weight",
            "model.norm.weight",
        ];
        assert!(left_out.into_iter().all(is_bias_or_norm));
        let decayed = ["bert.embeddings.word_embeddings.weight", "layers.0.normal.weight", "q.lora_A.weight"];
        assert!(!decayed.into_iter().any(is_bias_or_norm));
    }

    #[test]
    fn constants_out_of_their_range_are_refused_by_name() {
        for (settings, key) in [
            (json!({ "name": "adamw", "betas": [0.9, 1.0] }), "betas"),
            (json!({ "name": "adamw", "weight_decay": -0.1 }), "weight_decay"),
            (json!({ "name": "sgd", "momentum": -1.0 }), "momentum"),
            (json!({ "name": "adafactor", "eps": 0.0 }), "eps"),
            (json!({ "name": "adafactor", "clip_threshold": 0.0 }), "clip_threshold"),
            (json!({ "name": "adafactor", "decay_rate": 0.8 }), "decay_rate"),
        ] {
            let spec: OptimizerSpec = serde_json::from_value(settings).unwrap();
            assert!(spec.check().unwrap_err().contains(key), "{spec:?}");
        }
        assert_eq!(OptimizerSpec::default().check(), Ok(()));
    }

    #[test]
    fn clipping_scales_all_gradients_by_their_global_norm() {
        let module = two(&Device::flex().autodiff());
        let (clipped, norm) = clip_global_norm(gradients(&module), &module, 1.0);
        // sqrt(2 * 9 + 2 * 16)
        assert!((norm - 50f64.sqrt()).abs() < 1e-5, "{norm}");
        let a: Vec<f32> = clipped.get::<1>(module.a.id).unwrap().into_data().iter::<f32>().collect();
        assert!((f64::from(a[0]) - 3.0 / 50f64.sqrt()).abs() < 1e-5, "{a:?}");
        let (same, _) = clip_global_norm(gradients(&module), &module, 100.0);
        let b: Vec<f32> = same.get::<1>(module.b.id).unwrap().into_data().iter::<f32>().collect();
        assert_eq!(b, [4.0, 4.0]);
    }

    #[test]
    fn sgd_has_torchs_momentum() {
        let mut module = two(&Device::flex().autodiff());
        let mut optimizer = OptimizerSpec::Sgd { momentum: 0.9, weight_decay: 0.0 }.init();
        for _ in 0..2 {
            let gradients = gradients(&module);
            module = optimizer.step(0.1, module, gradients);
        }
        // torch: buffer 3, then 0.9 * 3 + 3 = 5.7; 1 - 0.1 * 3 - 0.1 * 5.7
        assert!((values(&module.a)[0] - 0.13).abs() < 1e-6, "{:?}", values(&module.a));
    }

    #[test]
    fn adafactor_moves_against_the_gradient() {
        let mut module = two(&Device::flex().autodiff());
        let gradients = gradients(&module);
        let adafactor: OptimizerSpec = serde_json::from_value(json!({ "name": "adafactor" })).unwrap();
        module = adafactor.init().step(0.1, module, gradients);
        assert!(values(&module.a)[0] < 1.0 && values(&module.b)[1] < 3.0);
    }
}
