//! One optimizer step as a method wants it: its policy's hooks around the optimizer with its learning rates.

use std::collections::HashSet;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use peftlab_layers::Model;
use peftlab_peft::{Course, DynMethod, Outline, Policy};

use crate::error::HarnessError;
use crate::experiment::TrainingSpec;
use crate::optimizer::clip_global_norm;

/// A model's optimizer, with what its method does around the steps.
pub struct Stepper {
    optimizer: ModuleOptimizer,
    policy: Option<Box<dyn Policy>>,
    max_grad_norm: Option<f64>,
    done: usize,
    updated: HashSet<ParamId>,
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
            updated: HashSet::new(),
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

    /// The parameters that, in one step or more, the loss gave a gradient and the optimizer an update. Either may be
    /// zero: a key's bias has no influence on the loss but by rounding, and a schedule begins at a rate of zero.
    pub fn updated(&self) -> &HashSet<ParamId> {
        &self.updated
    }

    /// The model after a step along `gradients`.
    ///
    /// # Errors
    /// Where clipping finds that the gradients' norm is no finite number.
    pub fn step(
        &mut self,
        learning_rate: f64,
        mut model: Model,
        mut gradients: GradientsParams,
    ) -> Result<Model, HarnessError> {
        if let Some(limit) = self.max_grad_norm {
            let norm;
            (gradients, norm) = clip_global_norm(gradients, &model, limit);
            if !norm.is_finite() {
                let step = self.done;
                return Err(HarnessError::Failed(format!(
                    "the gradients' norm became {norm} at step {step}"
                )));
            }
        }
        self.done += 1;
        let of_loss = with_gradient(&gradients, &model);
        let Some(policy) = &mut self.policy else {
            self.updated.extend(of_loss);
            return Ok(self.optimizer.step(learning_rate, model, gradients));
        };
        // the optimizer consumes its gradients, and the policy may want to see them afterwards
        let seen = copy(&gradients, &model);
        let gradients = policy.gradients(&mut model, gradients);
        self.updated.extend(with_gradient(&gradients, &model).intersection(&of_loss));
        let mut model = self.optimizer.step(learning_rate, model, gradients);
        policy.after_step(&mut model, &seen, self.done);
        Ok(model)
    }
}

/// The parameters of `module` that have a gradient, be it zero.
fn with_gradient<M: Module>(gradients: &GradientsParams, module: &M) -> HashSet<ParamId> {
    struct Ids<'a>(&'a GradientsParams, HashSet<ParamId>);
    impl ModuleVisitor for Ids<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if self.0.get::<D>(param.id).is_some() {
                self.1.insert(param.id);
            }
        }
    }
    let mut ids = Ids(gradients, HashSet::new());
    module.visit(&mut ids);
    ids.1
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

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[derive(Module, Debug)]
    struct Two {
        a: Param<Tensor<1>>,
        b: Param<Tensor<1>>,
    }

    #[test]
    fn a_gradient_of_zero_is_one_and_no_gradient_is_none() {
        let device = Device::flex().autodiff();
        let param = || Param::from_data(TensorData::new(vec![1.0f32, 2.0], [2]), &device);
        let module = Two { a: param(), b: param() };
        let gradients = GradientsParams::from_grads((module.a.val() * 0.0).sum().backward(), &module);
        assert_eq!(with_gradient(&gradients, &module), HashSet::from([module.a.id]));
        let gradients =
            GradientsParams::from_grads((module.a.val() * module.b.val()).sum().backward(), &module);
        assert_eq!(with_gradient(&gradients, &module).len(), 2);
    }
}
