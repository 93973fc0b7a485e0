//! One optimizer step as a method wants it: its policy's hooks around the optimizer with its learning rates.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use peftlab_layers::Model;
use peftlab_peft::{Course, DynMethod, Outline, Policy};

use crate::experiment::TrainingSpec;
use crate::optimizer::clip_global_norm;

/// A model's optimizer, with what its method does around the steps.
pub struct Stepper {
    optimizer: ModuleOptimizer,
    policy: Option<Box<dyn Policy>>,
    max_grad_norm: Option<f64>,
    done: usize,
}

impl Stepper {
    /// The optimizer of `model`, which has `method` attached, before its first step; `training` says which, with its
    /// clipping and decay.
    pub fn new(
        method: &dyn DynMethod,
        model: &Model,
        outline: &Outline,
        training: &TrainingSpec,
        course: Course,
    ) -> Self {
        let TrainingSpec { optimizer, max_grad_norm, decay_biases_and_norms, .. } = training;
        Self {
            optimizer: optimizer.for_method(method, model, outline, *decay_biases_and_norms),
            policy: method.policy(course),
            max_grad_norm: *max_grad_norm,
            done: 0,
        }
    }

    /// To be called before a step's forward passes.
    pub fn begin(&mut self, model: &mut Model) {
        if let Some(policy) = &mut self.policy {
            policy.before_step(model, self.done);
        }
    }

    /// `loss` `[1]` of one of the step's `passes`, with its share of what the method adds.
    pub fn with_extra_loss(&self, loss: Tensor<1>, passes: f64, model: &mut Model) -> Tensor<1> {
        match self.policy.as_ref().and_then(|policy| policy.extra_loss(model)) {
            Some(extra) => loss + extra / passes,
            None => loss,
        }
    }

    /// The model after a step along `gradients`.
    pub fn step(&mut self, learning_rate: f64, mut model: Model, mut gradients: GradientsParams) -> Model {
        if let Some(limit) = self.max_grad_norm {
            (gradients, _) = clip_global_norm(gradients, &model, limit);
        }
        self.done += 1;
        let Some(policy) = &mut self.policy else {
            return self.optimizer.step(learning_rate, model, gradients);
        };
        // the optimizer consumes its gradients, and the policy may want to see them afterwards
        let seen = copy(&gradients, &model);
        let gradients = policy.gradients(&mut model, gradients);
        let mut model = self.optimizer.step(learning_rate, model, gradients);
        policy.after_step(&mut model, &seen, self.done);
        model
    }
}

/// The same gradients once more: tensors are handles, so this costs no memory.
fn copy<M: Module>(gradients: &GradientsParams, module: &M) -> GradientsParams {
    struct Copy<'a>(&'a GradientsParams, GradientsParams);
    impl ModuleVisitor for Copy<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                self.1.register(param.id, gradient);
            }
        }
    }
    let mut copy = Copy(gradients, GradientsParams::new());
    module.visit(&mut copy);
    copy.1
}
