//! Training on one batch.

use std::collections::HashSet;

use burn::module::ParamId;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use peftlab_harness::{Attached, Held, Stepper, TrainingSpec};
use peftlab_layers::params::{self, ParamInfo};
use peftlab_layers::{Mode, Model};
use peftlab_peft::{Course, DynMethod};

use crate::network::{Network, VOCABULARY};

/// Optimizer steps at most.
pub(crate) const STEPS: usize = 200;
/// Learning rates that are tried, one after the other, until one of them is enough.
const RATES: [f64; 2] = [1e-2, 3e-2];

/// How training on one batch went.
pub(crate) struct Learnt {
    /// Below which share of the first loss it was to fall.
    pub(crate) enough: f64,
    /// The smallest loss in shares of the first.
    pub(crate) share: f64,
    /// After so many steps.
    pub(crate) steps: usize,
    /// With this rate.
    pub(crate) learning_rate: f64,
    /// What the model held before.
    pub(crate) held: Held,
    /// The parameters that received a gradient and an update.
    pub(crate) updated: HashSet<ParamId>,
    /// The model afterwards.
    pub(crate) model: Model,
}

/// Below which share of its first value the loss on one batch has to fall: a tenth, where the head is trained, or the
/// table of a language model's tokens. With both of them frozen a few vectors or gains cannot learn so much, and it is
/// asked that they learn at all.
fn enough(network: Network, attached: &Attached) -> f64 {
    let of_tokens = |info: &ParamInfo| info.trained && info.shape.first() == Some(&VOCABULARY);
    match network.has_trained_head() || params::infos(&attached.model).iter().any(of_tokens) {
        true => 0.1,
        false => 0.95,
    }
}

/// Trains `method` on the batch of `network` until its loss is below [`enough`], in 200 steps at most.
///
/// # Errors
/// Where it does not apply, or a gradient is no finite number.
pub(crate) fn learn(method: &dyn DynMethod, network: Network) -> Result<Learnt, String> {
    let mut best: Option<Learnt> = None;
    for rate in RATES {
        let learnt = learn_at(method, network, rate)?;
        if best.as_ref().is_none_or(|best| learnt.share < best.share) {
            best = Some(learnt);
        }
        if best.as_ref().is_some_and(|best| best.share < best.enough) {
            break;
        }
    }
    best.ok_or_else(|| "there is no learning rate to try".to_owned())
}

fn learn_at(method: &dyn DynMethod, network: Network, learning_rate: f64) -> Result<Learnt, String> {
    let attached = network.with(method).map_err(|reason| reason.to_string())?;
    let enough = enough(network, &attached);
    let Attached { mut model, outline } = attached;
    let held = Held::by(&mut model);
    let course = Course { steps: STEPS, seed: 1 };
    let mut stepper = Stepper::new(method, &model, &outline, &TrainingSpec::default(), course);
    let value = |loss: Tensor<1>| f64::from(loss.into_scalar::<f32>());
    let start = value(network.mean_loss(&model, Mode::Train));
    let (mut share, mut steps) = (1.0_f64, 0);
    for step in 0..STEPS {
        stepper.begin(&mut model);
        let mean = network.mean_loss(&model, Mode::Train);
        let now = value(mean.clone()) / start;
        if now < share {
            (share, steps) = (now, step);
        }
        // at least one step is done: what receives an update is asked for afterwards
        if share < enough && step > 0 {
            break;
        }
        let total = stepper.with_extra_loss(mean, 1.0, &mut model);
        let gradients = GradientsParams::from_grads(total.backward(), &model);
        model = stepper.step(learning_rate, model, gradients).map_err(|error| error.to_string())?;
    }
    Ok(Learnt { enough, share, steps, learning_rate, held, updated: stepper.updated().clone(), model })
}
