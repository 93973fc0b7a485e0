//! The loss of a batch, by the kind of task.

use burn::tensor::{FloatDType, Int, Tensor};
use peftlab_layers::Output;
use peftlab_ops as ops;

/// What a batch should give.
#[derive(Clone, Debug)]
pub enum Targets {
    /// A class for each row, `[batch]`.
    Classes(Tensor<1, Int>),
    /// A value for each row, `[batch]`.
    Values(Tensor<1>),
    /// A token for each position, `[batch, length]`, -100 where none counts; as on the Hub they are shifted by
    /// one inside.
    Tokens(Tensor<2, Int>),
}

/// A loss as a sum, with what it is a sum over.
pub struct Loss {
    /// Sum over rows or tokens, `[1]`.
    pub sum: Tensor<1>,
    /// Each row's or token's own, `[rows]` or `[batch * (length - 1)]`; zero where nothing counts.
    pub each: Tensor<1>,
}

/// The loss of `output` against `targets`. Divide the sum by the number of rows or of tokens that count.
///
/// Virtual tokens in front of a sequence are skipped. The last of them predicts the first token, as in PEFT,
/// whose labels are -100 on virtual tokens and shifted with them.
pub fn loss(output: Output, targets: &Targets) -> Loss {
    match (output, targets) {
        (Output::Sequence(logits), Targets::Classes(classes)) => {
            let (sum, each) = ops::cross_entropy_sum(logits, classes.clone());
            Loss { sum, each }
        }
        (Output::Sequence(logits), Targets::Values(values)) => {
            let [rows, _] = logits.dims();
            let predicted = logits.slice([0..rows, 0..1]).reshape([rows]).cast(FloatDType::F32);
            let each = (predicted - values.clone()).square();
            Loss { sum: each.clone().sum(), each }
        }
        (Output::Tokens(logits), Targets::Tokens(tokens)) => {
            let [batch, length, vocabulary] = logits.dims();
            let [_, real] = tokens.dims();
            // with virtual tokens in front, the last of them predicts the first token
            let (start, first) = if length > real { (length - real - 1, 0) } else { (0, 1) };
            let count = length - 1 - start;
            let logits = logits.slice([0..batch, start..length - 1, 0..vocabulary]);
            let labels = tokens.clone().slice([0..batch, first..real]).reshape([batch * count]);
            let (sum, each) = ops::cross_entropy_sum(logits.reshape([batch * count, vocabulary]), labels);
            Loss { sum, each }
        }
        (output, targets) => {
            unreachable!("a task's head gives what its targets are: {output:?}, {targets:?}")
        }
    }
}
