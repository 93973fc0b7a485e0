#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use burn::module::{Module, Param};
use burn::tensor::{DType, Int, Tensor, TensorData};
use peftlab_layers::{Context, Initializer, Inner, Merged, Model, ProjectionAdapter, ProjectionInfo};
use peftlab_ops::cast_like;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::low_rank::{QUERY_VALUE, attach};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, Selection, Targets,
};

/// OFT: a block-diagonal rotation of a projection's input.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Oft {
    /// b: inputs that are rotated together; it divides the inputs of every target.
    pub block_size: usize,
    /// Whether the rotation is a Neumann series, as is PEFT's default, in place of the exact Cayley transform.
    pub cayley_neumann: bool,
    /// Terms of that series.
    pub num_cayley_neumann_terms: usize,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
}

impl Default for Oft {
    fn default() -> Self {
        Self {
            block_size: 32,
            cayley_neumann: false,
            num_cayley_neumann_terms: 5,
            selection: Selection::default(),
        }
    }
}

/// Entries above the diagonal.
fn entries(size: usize) -> usize {
    size * (size - 1) / 2
}

impl Oft {
    fn targets<'o>(&self, outline: &'o Outline) -> Result<Vec<&'o ProjectionInfo>, NotApplicable> {
        if self.cayley_neumann && self.num_cayley_neumann_terms < 2 {
            return Err(NotApplicable::new(format!(
                "num_cayley_neumann_terms is {}, and one term is the identity; use 2 or more",
                self.num_cayley_neumann_terms
            )));
        }
        let targets = self.selection.select(&QUERY_VALUE, outline)?;
        check_blocks(self.block_size, &targets)?;
        Ok(targets)
    }
}

/// An error where blocks of `size` inputs cannot be rotated, or do not divide the inputs of a target.
pub(crate) fn check_blocks(size: usize, targets: &[&ProjectionInfo]) -> Result<(), NotApplicable> {
    if size < 2 {
        return Err(NotApplicable::new(format!(
            "block_size is {size}, and there would be nothing to rotate; use 2 or more"
        )));
    }
    match targets.iter().find(|p| p.input % size != 0) {
        None => Ok(()),
        Some(p) => Err(NotApplicable::new(format!(
            "block_size is {size}, which does not divide the {} inputs of `{}`; use a divisor, or leave the module \
             out of target_modules",
            p.input, p.name
        ))),
    }
}

impl Method for Oft {
    const CARD: Card = Card {
        name: "oft",
        title: "OFT",
        family: Family::Reparameterized,
        paper: "Qiu et al. 2023, arXiv 2306.07280",
        summary: "y = (x R) W + b with R orthogonal and block-diagonal, blocks of b inputs: R = (I − Q)(I + Q)⁻¹, \
                  Cayley's transform of a skew-symmetric Q, whose b(b − 1)/2 entries start at zero. Angles between \
                  neurons stay as they are. The inverse is found in double precision on the host. With \
                  `cayley_neumann`, PEFT's default but not ours, R = I + 2Q + 2Q² + … in so many terms, which is only \
                  nearly orthogonal and turns the other way: an adapter must be used with the form that it was \
                  trained with.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "Targets whose inputs b does not divide.",
        settings: &[
            ("block_size", "32", "b: inputs that are rotated together; divides the targets' inputs"),
            (
                "cayley_neumann",
                "false",
                "a Neumann series, as is PEFT's default, in place of the exact transform",
            ),
            ("num_cayley_neumann_terms", "5", "terms of that series"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
        ],
    };

    fn label(&self) -> String {
        let series = if self.cayley_neumann { " neumann" } else { "" };
        let targets = self.selection.label("q,v");
        format!("oft{series} b={} {targets}", self.block_size)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let targets = self.targets(outline)?;
        let size = self.block_size;
        Ok(Count::all(targets.iter().map(|p| p.input / size * entries(size)).sum()))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let size = self.block_size;
        attach(model, &self.targets(outline)?, |projection| {
            let blocks = projection.info.input / size;
            Ok(OftAdapter {
                oft_R: Rotation { weight: init.constant(0.0, [blocks, entries(size)]) },
                block_size: size,
                terms: self.cayley_neumann.then_some(self.num_cayley_neumann_terms),
            })
        })
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        if !config.is("OFT") {
            return Ok(None);
        }
        Ok(Some(Self {
            block_size: config.integer("oft_block_size", 32)?,
            cayley_neumann: config.value("use_cayley_neumann", true)?,
            num_cayley_neumann_terms: config.integer("num_cayley_neumann_terms", 5)?,
            selection: config.selection()?,
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        Some(json!({
            "peft_type": "OFT",
            "r": 0,
            "oft_block_size": self.block_size,
            "use_cayley_neumann": self.cayley_neumann,
            "num_cayley_neumann_terms": self.num_cayley_neumann_terms,
            "module_dropout": 0.0,
            "coft": false,
            "eps": 6e-5,
            "block_share": false,
            "target_modules": Targets::to_peft(&self.targets(outline).ok()?),
            "bias": "none",
            "fan_in_fan_out": false,
            "init_weights": true,
        }))
    }
}

/// Named and nested as in PEFT.
#[derive(Module, Debug)]
struct Rotation {
    /// `[in / b, b (b - 1) / 2]`: the entries above each block's diagonal, row by row.
    weight: Param<Tensor<2>>,
}

/// OFT's tensor at one projection.
#[derive(Module, Debug)]
struct OftAdapter {
    oft_R: Rotation,
    #[module(skip)]
    block_size: usize,
    /// Terms of the Neumann series, if there is one.
    #[module(skip)]
    terms: Option<usize>,
}

impl OftAdapter {
    /// The blocks of `R`, `[in / b, b, b]`.
    fn rotation(&self) -> Tensor<3> {
        let skew = skew(self.oft_R.weight.val(), self.block_size);
        match self.terms {
            None => cayley(skew),
            Some(terms) => neumann(skew, terms),
        }
    }
}

impl ProjectionAdapter for OftAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        inner.forward(rotate(input, self.rotation()))
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        let back = self.rotation().swap_dims(1, 2);
        // (R W)ᵀ is Wᵀ Rᵀ
        Some(weights.with_weight(|weight| {
            let turned = rotate(weight.transpose().unsqueeze::<3>(), back);
            turned.squeeze_dim::<2>(0).transpose()
        }))
    }
}

/// Skew-symmetric matrices `[blocks, size, size]` from the entries above their diagonals, row by row.
fn skew(entries: Tensor<2>, size: usize) -> Tensor<3> {
    let (device, [blocks, _]) = (entries.device(), entries.dims());
    // the number of each entry, from 1; what is not above the diagonal is the zero in front
    let mut places = vec![0i64; size * size];
    let above = (0..size).flat_map(|row| (row + 1..size).map(move |column| row * size + column));
    for (number, place) in above.enumerate() {
        places[place] = number as i64 + 1;
    }
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [size * size]), &device);
    let zero = Tensor::<2>::zeros([blocks, 1], (&device, DType::F32));
    let upper = Tensor::cat(vec![zero, entries], 1).select(1, places).reshape([blocks, size, size]);
    upper.clone() - upper.swap_dims(1, 2)
}

/// The identity `[1, size, size]` where `like` is.
fn identity(size: usize, like: &Tensor<3>) -> Tensor<3> {
    let values: Vec<f32> = (0..size * size).map(|i| if i % (size + 1) == 0 { 1.0 } else { 0.0 }).collect();
    Tensor::from_data(TensorData::new(values, [1, size, size]), (&like.device(), DType::F32))
}

/// Cayley's transform `(I − Q)(I + Q)⁻¹` of skew-symmetric matrices `[blocks, size, size]`.
pub(crate) fn cayley(skew: Tensor<3>) -> Tensor<3> {
    let [_, size, _] = skew.dims();
    let identity = identity(size, &skew);
    let sum = skew.clone() + identity.clone();
    // N (2I − M N) for N, a constant that is M's inverse but for rounding: it is the inverse, and so is its first
    // derivative, −N dM N
    let near = inverse(&sum);
    let inverse = near.clone().matmul(identity.clone() * 2.0 - sum.matmul(near));
    (identity - skew).matmul(inverse)
}

/// The inverses of `I + Q` with Q skew-symmetric, on the host, without gradients.
fn inverse(matrices: &Tensor<3>) -> Tensor<3> {
    let shape = matrices.dims();
    let data = matrices.clone().detach().into_data();
    let mut values: Vec<f64> = data.iter::<f64>().collect();
    values.chunks_mut(shape[1] * shape[2]).for_each(|matrix| invert(matrix, shape[1]));
    let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), (&matrices.device(), DType::F32))
}

/// Gauss and Jordan's elimination in place; `decomposition.rs` says why not by a library. No pivot is looked for: every leading part of I + Q has an inverse, and
/// no pivot is below one.
fn invert(matrix: &mut [f64], size: usize) {
    for k in 0..size {
        let diagonal = k * size + k;
        let pivot = std::mem::replace(&mut matrix[diagonal], 1.0);
        let row = &mut matrix[k * size..(k + 1) * size];
        row.iter_mut().for_each(|value| *value /= pivot);
        let row = row.to_vec();
        for (_, other) in matrix.chunks_mut(size).enumerate().filter(|(i, _)| *i != k) {
            let factor = std::mem::replace(&mut other[k], 0.0);
            other.iter_mut().zip(&row).for_each(|(value, of_row)| *value -= factor * of_row);
        }
    }
}

/// The series that PEFT has in the place of Cayley's transform: `I + 2Q + 2Q² + …`, whose last power has no factor
/// where there are more than two terms. Four terms are as many as three there.
fn neumann(skew: Tensor<3>, terms: usize) -> Tensor<3> {
    let [_, size, _] = skew.dims();
    let sum = skew.clone() * 2.0 + identity(size, &skew);
    if terms <= 2 {
        return sum;
    }
    let mut power = skew.clone().matmul(skew.clone());
    let mut sum = sum + power.clone() * 2.0;
    for _ in 3..terms.saturating_sub(1) {
        power = power.matmul(skew.clone());
        sum = sum + power.clone() * 2.0;
    }
    sum + power.matmul(skew)
}

/// `input` `[batch, sequence, width]` times the block-diagonal matrix of the blocks `rotation`
/// `[width / size, size, size]`.
pub(crate) fn rotate(input: Tensor<3>, rotation: Tensor<3>) -> Tensor<3> {
    let ([batch, length, width], [blocks, size, _]) = (input.dims(), rotation.dims());
    let rotation = cast_like(rotation, &input);
    let rows = input.reshape([batch * length, blocks, size]).swap_dims(0, 1);
    rows.matmul(rotation).swap_dims(0, 1).reshape([batch, length, width])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
    }

    fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    fn drawn(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * i + 3 * i) as f32).sin()).collect()
    }

    #[test]
    fn entries_go_above_the_diagonal_row_by_row() {
        let skew = skew(tensor(vec![1.0, 2.0, 3.0], [1, 3], &Device::flex()), 3);
        assert_eq!(host(skew), [0.0, 1.0, 2.0, -1.0, 0.0, 3.0, -2.0, -3.0, 0.0]);
    }

    #[test]
    fn zero_entries_are_the_identity_to_the_bit() {
        let device = Device::flex();
        let zeros = || skew(tensor(vec![0.0; 12], [2, 6], &device), 4);
        let expected = host(identity(4, &zeros()).expand([2, 4, 4]));
        assert_eq!(host(cayley(zeros())), expected);
        assert_eq!(host(neumann(zeros(), 5)), expected);
    }

    #[test]
    fn cayleys_transform_is_orthogonal_and_solves_its_equation() {
        let device = Device::flex();
        let skew = skew(tensor(drawn(3 * 28), [3, 28], &device), 8);
        let rotation = cayley(skew.clone());
        let identity = identity(8, &skew);
        let largest = |tensor: Tensor<3>| host(tensor).iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let product = rotation.clone().matmul(rotation.clone().swap_dims(1, 2));
        assert!(largest(product - identity.clone()) < 1e-5);
        assert!(largest(rotation.matmul(skew.clone() + identity.clone()) - (identity - skew)) < 1e-5);
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let device = Device::flex().autodiff();
        let start = drawn(6);
        let weights = tensor(drawn(16), [1, 4, 4], &device);
        let value = |entries: Tensor<2>| (cayley(skew(entries, 4)) * weights.clone()).sum();
        let entries = tensor(start.clone(), [1, 6], &device).require_grad();
        let gradients = value(entries.clone()).backward();
        let gradient = host(entries.grad(&gradients).unwrap());
        for (i, slope) in gradient.into_iter().enumerate() {
            let at = |step: f32| {
                let mut moved = start.clone();
                moved[i] += step;
                value(tensor(moved, [1, 6], &device)).into_scalar::<f32>()
            };
            let expected = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((slope - expected).abs() < 5e-3, "{i}: {slope} is not {expected}");
        }
    }
}
