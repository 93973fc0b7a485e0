//! What a method does around training steps, besides its forward pass.

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use peftlab_layers::{Model, ProjectionAdapter};

/// What a method does around training steps, with its own state; every hook does nothing unless it is written.
///
/// Random numbers come from a stream of the policy's own, made from [`Course::seed`], so that a rerun repeats them.
pub trait Policy: Send {
    /// Before the forward passes of optimizer step `step`, from 0.
    fn before_step(&mut self, model: &mut Model, step: usize) {
        let _ = (model, step);
    }

    /// A term `[1]` that is added to the loss of every forward pass's batch; it is not part of the loss that is
    /// recorded.
    fn extra_loss(&self, model: &mut Model) -> Option<Tensor<1>> {
        let _ = model;
        None
    }

    /// The gradients as the optimizer is to see them, after clipping.
    fn gradients(&mut self, model: &mut Model, gradients: GradientsParams) -> GradientsParams {
        let _ = model;
        gradients
    }

    /// After the optimizer's step `step`, from 1, with the gradients that it took.
    fn after_step(&mut self, model: &mut Model, gradients: &GradientsParams, step: usize) {
        let _ = (model, gradients, step);
    }
}

/// What a policy knows of the run that it is part of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// Optimizer steps that are planned.
    pub steps: usize,
    /// The run's seed.
    pub seed: u64,
}

/// Every projection that has an adapter of type `T`: its name, and the adapter.
pub fn adapters_mut<T: ProjectionAdapter + 'static>(model: &mut Model) -> Vec<(&str, &mut T)> {
    let mut found = Vec::new();
    for projection in model.sites().projections {
        let name = projection.info.name.as_str();
        found.extend(
            projection
                .adapters
                .iter_mut()
                .filter_map(|adapter| adapter.as_any_mut().downcast_mut())
                .map(|adapter| (name, adapter)),
        );
    }
    found
}
