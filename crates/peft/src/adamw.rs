//! AdamW as torch computes it.

use burn::optim::{LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Device, Tensor};

/// AdamW's constants, for methods that bring an optimizer of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConstants {
    /// Decay of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl AdamConstants {
    /// The optimizer with these constants.
    pub fn adamw(self) -> AdamW {
        AdamW(self)
    }
}

/// AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101) in the order of `torch.optim.AdamW`'s operations.
///
/// Burn's own has its constants in `f32`, where 1 - 0.999 is wrong in the fifth digit, divides both moments by their
/// corrections, and keeps the old weight until the new one is there. Here constants are `f64`, the corrections go into
/// the rate and the root, and the weight is changed in place.
#[derive(Clone, Debug)]
pub struct AdamW(AdamConstants);

/// What [`AdamW`] keeps of a parameter.
#[derive(Clone, Debug)]
pub struct AdamWState<const D: usize> {
    /// Steps done.
    pub steps: usize,
    /// Moving average of the gradient.
    pub first: Tensor<D>,
    /// Moving average of its square.
    pub second: Tensor<D>,
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        learning_rate: LearningRate,
        tensor: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let AdamConstants { betas: [beta_1, beta_2], eps, weight_decay } = self.0;
        let (steps, first, second) = match state {
            Some(AdamWState { steps, first, second }) => {
                let first = first * beta_1 + gradient.clone() * (1.0 - beta_1);
                (steps + 1, first, second * beta_2 + gradient.square() * (1.0 - beta_2))
            }
            None => (1, gradient.clone() * (1.0 - beta_1), gradient.square() * (1.0 - beta_2)),
        };
        let correction = |beta: f64| 1.0 - beta.powf(steps as f64);
        let step = first.clone() / (second.clone().sqrt() / correction(beta_2).sqrt() + eps);
        let decayed = match weight_decay {
            0.0 => tensor,
            decay => tensor * (1.0 - learning_rate * decay),
        };
        let tensor = decayed - step * (learning_rate / correction(beta_1));
        (tensor, Some(AdamWState { steps, first, second }))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        let AdamWState { steps, first, second } = state;
        AdamWState { steps, first: first.to_device(device), second: second.to_device(device) }
    }
}

impl<const D: usize> RecordState for AdamWState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_scalar(prefix, "steps", self.steps.into());
        out.push_tensor(prefix, "first", self.first.clone().into_data());
        out.push_tensor(prefix, "second", self.second.clone().into_data());
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, device: &Device) -> Option<Self> {
        Some(Self {
            steps: usize::try_from(source.take_scalar(prefix, "steps")?).ok()?,
            first: Tensor::from_data(source.take_tensor(prefix, "first")?, device),
            second: Tensor::from_data(source.take_tensor(prefix, "second")?, device),
        })
    }
}
