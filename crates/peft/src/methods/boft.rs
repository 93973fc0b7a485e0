#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peftlab_layers::{Context, Initializer, Inner, Merged, Model, ProjectionAdapter, ProjectionInfo};
use peftlab_ops::cast_like;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checks::check_rank;
use super::low_rank::{QUERY_VALUE, attach};
use super::oft::{cayley, check_blocks, rotate};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, Selection, Targets,
};

/// BOFT: a rotation of a projection's input in several block-diagonal steps, and a scale of its outputs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Boft {
    /// b: inputs that are rotated together; it divides the inputs of every target.
    pub block_size: usize,
    /// m: steps of the butterfly; each doubles the inputs that an input can reach.
    pub butterfly_factor: usize,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
}

impl Default for Boft {
    fn default() -> Self {
        Self { block_size: 4, butterfly_factor: 1, selection: Selection::default() }
    }
}

impl Boft {
    fn targets<'o>(&self, outline: &'o Outline) -> Result<Vec<&'o ProjectionInfo>, NotApplicable> {
        let (size, steps) = (self.block_size, self.butterfly_factor);
        check_rank("butterfly_factor", steps)?;
        let targets = self.selection.select(&QUERY_VALUE, outline)?;
        check_blocks(size, &targets)?;
        if steps == 1 {
            return Ok(targets);
        }
        if !size.is_multiple_of(2) {
            return Err(NotApplicable::new(format!(
                "butterfly_factor is {steps}, and then half blocks change places, but block_size is {size}; use an \
                 even one"
            )));
        }
        // inputs that the last step brings together
        let span =
            u32::try_from(steps - 1).map_or(usize::MAX, |n| size.saturating_mul(2usize.saturating_pow(n)));
        match targets.iter().find(|p| !p.input.is_multiple_of(span)) {
            None => Ok(targets),
            Some(p) => Err(NotApplicable::new(format!(
                "butterfly_factor is {steps} and block_size {size}: block_size · 2^(butterfly_factor − 1) does not \
                 divide the {} inputs of `{}`; use a smaller one of either",
                p.input, p.name
            ))),
        }
    }
}

impl Method for Boft {
    const CARD: Card = Card {
        name: "boft",
        title: "BOFT",
        family: Family::Reparameterized,
        paper: "Liu et al. 2023, arXiv 2311.06243",
        summary: "y = s ⊙ ((x Bₘ … B₁) W) + b with Bᵢ = Pᵢ diag(R) Pᵢᵀ orthogonal: each block of b inputs is turned by \
                  R = (I − Q)(I + Q)⁻¹, Q = (A − Aᵀ)/2, and Pᵢ, the butterfly's permutation, brings half blocks \
                  together that are 2ⁱ⁻¹ half blocks apart; P₁ is the identity. Trained are the A, full matrices that \
                  start at zero, and s, one at the start. With m = 1 it is what PEFT has without its CUDA extension, \
                  whatever `boft_n_butterfly_factor` says.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "Targets whose inputs b 2^(m−1) does not divide.",
        settings: &[
            ("block_size", "4", "b: inputs that are rotated together; divides the targets' inputs"),
            ("butterfly_factor", "1", "m: steps of the butterfly"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
        ],
    };

    fn label(&self) -> String {
        let targets = self.selection.label("q,v");
        format!("boft b={} m={} {targets}", self.block_size, self.butterfly_factor)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let targets = self.targets(outline)?;
        let each = targets.iter().map(|p| self.butterfly_factor * p.input * self.block_size + p.output);
        Ok(Count::all(each.sum()))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let (size, steps) = (self.block_size, self.butterfly_factor);
        attach(model, &self.targets(outline)?, |projection| {
            let ProjectionInfo { input, output, .. } = projection.info;
            Ok(BoftAdapter {
                boft_R: init.constant(0.0, [steps, input / size, size, size]),
                boft_s: init.constant(1.0, [output, 1]),
            })
        })
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        if !config.is("BOFT") {
            return Ok(None);
        }
        Ok(Some(Self {
            block_size: config.integer("boft_block_size", 4)?,
            butterfly_factor: config.integer("boft_n_butterfly_factor", 1)?,
            selection: config.selection()?,
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        Some(json!({
            "peft_type": "BOFT",
            "boft_block_size": self.block_size,
            "boft_block_num": 0,
            "boft_n_butterfly_factor": self.butterfly_factor,
            "boft_dropout": 0.0,
            "target_modules": Targets::to_peft(&self.targets(outline).ok()?),
            "bias": "none",
            "fan_in_fan_out": false,
            "init_weights": true,
        }))
    }
}

/// BOFT's tensors at one projection.
#[derive(Module, Debug)]
struct BoftAdapter {
    /// `[m, in / b, b, b]`
    boft_R: Param<Tensor<4>>,
    /// `[out, 1]`
    boft_s: Param<Tensor<2>>,
}

impl BoftAdapter {
    /// The rotations of each step, `[in / b, b, b]`.
    fn rotations(&self) -> Vec<Tensor<3>> {
        let matrices = self.boft_R.val();
        let [steps, blocks, size, _] = matrices.dims();
        let matrices = matrices.reshape([steps * blocks, size, size]);
        cayley((matrices.clone() - matrices.swap_dims(1, 2)) * 0.5).chunk(steps, 0)
    }

    /// `[out]`
    fn scale(&self) -> Tensor<1> {
        self.boft_s.val().flatten(0, 1)
    }
}

/// Half blocks of `half` values, as a matrix `[rows, columns]` of them, transposed, all along the last dimension.
fn transpose_halves(input: Tensor<3>, [rows, columns]: [usize; 2], half: usize) -> Tensor<3> {
    let shape = input.dims();
    let groups = shape.iter().product::<usize>() / (rows * columns * half);
    input.reshape([groups, rows, columns, half]).swap_dims(1, 2).reshape(shape)
}

/// `input` through step `step`, from 0, of the butterfly: times `P diag(rotation) Pᵀ`.
fn turn(input: Tensor<3>, rotation: Tensor<3>, step: usize) -> Tensor<3> {
    if step == 0 {
        return rotate(input, rotation);
    }
    let (half, apart) = (rotation.dims()[1] / 2, 1 << step);
    let paired = transpose_halves(input, [2, apart], half);
    transpose_halves(rotate(paired, rotation), [apart, 2], half)
}

impl ProjectionAdapter for BoftAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let steps = self.rotations().into_iter().enumerate();
        let turned = steps.rev().fold(input, |input, (step, rotation)| turn(input, rotation, step));
        let output = inner.forward(turned);
        // the bias is not scaled
        let linear = match inner.bias() {
            Some(bias) => output.clone() - cast_like(bias, &output).unsqueeze(),
            None => output.clone(),
        };
        let change = cast_like(self.scale() - 1.0, &output).unsqueeze::<3>();
        output + linear * change
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        let steps = self.rotations().into_iter().map(|rotation| rotation.swap_dims(1, 2)).enumerate();
        Some(weights.with_weight(|weight| {
            // (B W)ᵀ is Wᵀ Bᵀ, with the steps in the other order
            let weight = weight.transpose().unsqueeze::<3>();
            let turned = steps.fold(weight, |weight, (step, rotation)| turn(weight, rotation, step));
            turned.squeeze_dim::<2>(0).transpose() * self.scale().unsqueeze_dim::<2>(0)
        }))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;

    fn tensor(values: Vec<f32>, shape: [usize; 3]) -> Tensor<3> {
        Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F32))
    }

    fn host(tensor: Tensor<3>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    #[test]
    fn a_step_brings_half_blocks_together() {
        let input = || tensor((0..8).map(|i| i as f32).collect(), [1, 1, 8]);
        // the first block swaps its two values, the others keep theirs
        let swap = [0.0, 1.0, 1.0, 0.0];
        let keep = [1.0, 0.0, 0.0, 1.0];
        let rotation = || tensor([swap, keep, keep, keep].concat(), [4, 2, 2]);
        assert_eq!(host(turn(input(), rotation(), 0)), [1.0, 0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(host(turn(input(), rotation(), 1)), [2.0, 1.0, 0.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(host(turn(input(), rotation(), 2)), [4.0, 1.0, 2.0, 3.0, 0.0, 5.0, 6.0, 7.0]);
    }

    #[test]
    fn a_step_is_the_papers_matrix() {
        let (width, size) = (16, 4);
        let values: Vec<f32> = (0..width * size).map(|i| ((i * i) as f32).sin()).collect();
        let rotation = tensor(values.clone(), [width / size, size, size]);
        for step in 0..3 {
            // where each input goes: half blocks with even numbers in a group first, then those with odd ones
            let (half, group) = (size / 2, size << step);
            let from = |i: usize| {
                let (start, place) = (i / group * group, i % group);
                let (chunk, rest) = (place / half, place % half);
                let chunks = group / half;
                let chunk = if chunk < chunks / 2 { 2 * chunk } else { 2 * (chunk - chunks / 2) + 1 };
                start + chunk * half + rest
            };
            let block = |i: usize, j: usize| match i / size == j / size {
                true => values[(i / size * size + i % size) * size + j % size],
                false => 0.0,
            };
            let rows = (0..width).flat_map(|i| (0..width).map(move |j| f32::from(u8::from(i == j))));
            let ours = host(turn(tensor(rows.collect(), [1, width, width]), rotation.clone(), step));
            for i in 0..width {
                for j in 0..width {
                    assert_eq!(ours[i * width + j], block(from(i), from(j)), "{step}: {i}, {j}");
                }
            }
        }
    }
}
