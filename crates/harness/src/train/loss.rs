//! The loss of a batch, by the kind of task, and what it is a mean over. Both come from here, so that no mean is
//! divided by another number of tokens than were summed.

use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use peftlab_layers::{Model, Output};
use peftlab_ops as ops;

/// What a batch should give.
#[derive(Clone, Debug)]
pub enum Targets {
    /// A class for each row, `[batch]`.
    Classes(Tensor<1, Int>),
    /// A value for each row, `[batch]`.
    Values(Tensor<1>),
    /// A token for each position.
    Tokens(TokenTargets),
}

/// Labels of a language model; as on the Hub they are shifted by one inside the loss.
#[derive(Clone, Debug)]
pub struct TokenTargets {
    /// `[batch, length]`, -100 where none counts.
    labels: Tensor<2, Int>,
    /// Labels that count, in each row.
    counted: Vec<usize>,
}

/// What becomes of a row's first token. Nothing precedes it, so only a prompt's last virtual token can predict it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstToken {
    /// It is in nobody's sum and count, so that every method is scored on the same tokens.
    Left,
    /// It is in the sum and in the count, as in PEFT, whose labels are -100 on virtual tokens and shifted with them.
    /// The model must have virtual tokens in front.
    Scored,
}

impl FirstToken {
    /// What becomes of it with `model`: scored where that is asked for and something predicts it.
    pub fn with(model: &mut Model, asked: bool) -> Self {
        if asked && model.has_virtual_tokens() { Self::Scored } else { Self::Left }
    }
}

impl Targets {
    /// The targets of a language model from `labels`, row-major `[batch, length]` and below 0 where none counts.
    pub fn tokens(mut labels: Vec<i64>, shape: [usize; 2], first: FirstToken, device: &Device) -> Self {
        let [_, length] = shape;
        if first == FirstToken::Left {
            labels.iter_mut().step_by(length.max(1)).for_each(|label| *label = -100);
        }
        let count = |row: &[i64]| row.iter().filter(|label| **label >= 0).count();
        let counted = labels.chunks(length.max(1)).map(count).collect();
        Self::Tokens(TokenTargets {
            labels: Tensor::from_data(TensorData::new(labels, shape), device),
            counted,
        })
    }

    /// Rows, or tokens that count: what the sum of the loss is divided by for its mean.
    pub fn counted(&self) -> usize {
        match self {
            Self::Classes(classes) => classes.dims()[0],
            Self::Values(values) => values.dims()[0],
            Self::Tokens(tokens) => tokens.counted.iter().sum(),
        }
    }

    /// The same of row `row`.
    pub fn counted_in(&self, row: usize) -> usize {
        match self {
            Self::Classes(_) | Self::Values(_) => 1,
            Self::Tokens(tokens) => tokens.counted[row],
        }
    }
}

/// A loss as a sum; [`Targets::counted`] is what it is a sum over.
pub struct Loss {
    /// Sum over rows or tokens, `[1]`.
    pub sum: Tensor<1>,
    /// Each row's or token's own, `[rows]` or `[batch * predicted]`; zero where nothing counts.
    pub each: Tensor<1>,
}

/// The loss of `output` against `targets`.
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
        (Output::Tokens(logits), Targets::Tokens(TokenTargets { labels, .. })) => {
            let [batch, length, vocabulary] = logits.dims();
            let [_, real] = labels.dims();
            // the last of the virtual tokens in front stands where the first token is predicted; without any that
            // token is predicted nowhere
            let (start, first) = if length > real { (length - real - 1, 0) } else { (0, 1) };
            let count = length - 1 - start;
            let logits = logits.slice([0..batch, start..length - 1, 0..vocabulary]);
            let labels = labels.clone().slice([0..batch, first..real]).reshape([batch * count]);
            let (sum, each) = ops::cross_entropy_sum(logits.reshape([batch * count, vocabulary]), labels);
            Loss { sum, each }
        }
        (output, targets) => {
            unreachable!("a task's head gives what its targets are: {output:?}, {targets:?}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCABULARY: usize = 5;
    /// Two rows of four tokens, the second padded on the right by two.
    const LABELS: [i64; 8] = [1, 2, 3, 4, 2, 1, -100, -100];

    /// Logits of `virtual_tokens` in front of the four of each row, all different.
    fn logits(virtual_tokens: usize) -> Vec<f32> {
        let positions = 2 * (virtual_tokens + 4);
        (0..positions * VOCABULARY).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect()
    }

    /// Cross-entropy of label `label` at `position` of `row`, in `f64`.
    fn one(virtual_tokens: usize, row: usize, position: usize, label: i64) -> f64 {
        let at = (row * (virtual_tokens + 4) + position) * VOCABULARY;
        let here: Vec<f64> =
            logits(virtual_tokens)[at..at + VOCABULARY].iter().map(|v| f64::from(*v)).collect();
        here.iter().map(|v| v.exp()).sum::<f64>().ln() - here[label as usize]
    }

    /// Sum and count of the loss by the code under test.
    fn ours(virtual_tokens: usize, first: FirstToken) -> (f64, usize, Vec<usize>) {
        let device = Device::flex();
        let shape = [2, virtual_tokens + 4, VOCABULARY];
        let output =
            Output::Tokens(Tensor::from_data(TensorData::new(logits(virtual_tokens), shape), &device));
        let targets = Targets::tokens(LABELS.to_vec(), [2, 4], first, &device);
        let loss = loss(output, &targets);
        let each: f64 = loss.each.into_data().iter::<f32>().map(f64::from).sum();
        let sum = f64::from(loss.sum.into_scalar::<f32>());
        assert!((each - sum).abs() < 1e-5, "{each} in parts, {sum} in all");
        (sum, targets.counted(), vec![targets.counted_in(0), targets.counted_in(1)])
    }

    /// Every label in the sum: row, position of the token, label.
    fn expected(virtual_tokens: usize, first: FirstToken) -> (f64, usize) {
        let from = if first == FirstToken::Scored { 0 } else { 1 };
        let all: Vec<f64> = (0..2)
            .flat_map(|row| (from..4).map(move |token| (row, token, LABELS[row * 4 + token])))
            .filter(|(.., label)| *label >= 0)
            .map(|(row, token, label)| one(virtual_tokens, row, virtual_tokens + token - 1, label))
            .collect();
        (all.iter().sum(), all.len())
    }

    #[test]
    fn every_token_of_the_sum_is_in_the_count() {
        for (virtual_tokens, first) in
            [(0, FirstToken::Left), (3, FirstToken::Left), (3, FirstToken::Scored), (1, FirstToken::Scored)]
        {
            let (sum, counted, rows) = ours(virtual_tokens, first);
            let (right, count) = expected(virtual_tokens, first);
            assert!((sum - right).abs() < 1e-4, "{virtual_tokens} {first:?}: {sum} is not {right}");
            assert_eq!(counted, count, "{virtual_tokens} {first:?}");
            assert_eq!(rows.iter().sum::<usize>(), counted);
        }
    }

    #[test]
    fn a_prompt_is_scored_on_the_tokens_that_all_methods_are() {
        assert_eq!(ours(3, FirstToken::Left).2, ours(0, FirstToken::Left).2);
        assert_eq!(ours(3, FirstToken::Left).2, [3, 1]);
        assert_eq!(ours(3, FirstToken::Scored).2, [4, 2], "PEFT counts the first of each row, too");
    }
}
