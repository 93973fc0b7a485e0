//! What a forward pass carries along besides activations.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::{Bool, Distribution, Int, Tensor};

/// Whether a forward pass is part of training: dropout acts in training alone, and so may a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Dropout acts.
    Train,
    /// Deterministic.
    Evaluate,
}

/// What a forward pass carries along besides activations: its mode, and the values that a method computes
/// once a pass for all sites (a prefix from its MLP, tensors that layers share).
#[derive(Clone, Debug)]
pub struct Context {
    mode: Mode,
    position_offset: usize,
    shared: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl Context {
    /// An empty context.
    pub fn new(mode: Mode) -> Self {
        Self { mode, position_offset: 0, shared: HashMap::new() }
    }

    /// The mode of this pass.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How many positions come before the first token: the length of a prefix in the attention.
    pub fn position_offset(&self) -> usize {
        self.position_offset
    }

    /// Moves all tokens back by `positions`.
    pub fn shift_positions(&mut self, positions: usize) {
        self.position_offset += positions;
    }

    /// Keeps `value` for the sites of this pass; one value of a type.
    pub fn share<T: Any + Send + Sync>(&mut self, value: T) {
        self.shared.insert(TypeId::of::<T>(), Arc::new(value));
    }

    /// The value of type `T` that was shared for this pass.
    pub fn shared<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.shared.get(&TypeId::of::<T>())?.downcast_ref()
    }

    /// Inverted dropout with probability `probability` in training, the identity otherwise. The mask comes
    /// from the device's seeded stream.
    pub fn dropout<const D: usize>(&self, input: Tensor<D>, probability: f64) -> Tensor<D> {
        if self.mode == Mode::Evaluate || probability == 0.0 {
            return input;
        }
        let kept = Distribution::Bernoulli(1.0 - probability);
        let mask = Tensor::random(input.dims(), kept, (&input.device().without_autodiff(), input.dtype()));
        let mask = if input.device().is_autodiff() { mask.autodiff() } else { mask };
        input * (mask / (1.0 - probability))
    }
}

/// A batch as a backbone reads it.
#[derive(Clone, Debug)]
pub struct ModelInput {
    /// Token ids, `[batch, length]`.
    pub input_ids: Tensor<2, Int>,
    /// True at padded positions, `[batch, length]`; `None` where nothing is padded.
    pub padding: Option<Tensor<2, Bool>>,
    /// Segment ids, `[batch, length]`, for networks that have them; zeros if `None`.
    pub token_type_ids: Option<Tensor<2, Int>>,
}

/// A backbone's output.
#[derive(Clone, Debug)]
pub enum Output {
    /// Logits of the next token, `[batch, virtual + length, vocabulary]`; virtual tokens that a method put
    /// in front come first.
    Tokens(Tensor<3>),
    /// Logits of a sequence, `[batch, classes]`; one column for regression.
    Sequence(Tensor<2>),
}
