use burn::module::ParamGroup;
use burn::optim::{ModuleOptimizer, Optimizer, RecordState, StateSink, StateSource, join_path};
use burn::tensor::{DType, Device, Tensor};
use peftlab_layers::params::{self, ParamInfo};
use peftlab_layers::{Initializer, Model, ProjectionInfo};
use peftlab_ops::cast_like;
use serde::{Deserialize, Serialize};

use super::checks::{check_interval, check_rank};
use super::decomposition::{Decomposition, leading, tensor};
use super::low_rank::BLOCKS;
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    AdamConstants, AdamW, AdamWState, Card, Count, Family, Identity, MergeKind, Method, NotApplicable,
    Outline, Selection,
};

/// GaLore: full fine-tuning with Adam's moments in a low-rank subspace of the gradient.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GaLore {
    /// r, the dimensions that are left of a gradient's shorter side.
    pub rank: usize,
    /// T; the subspace is chosen anew every so many steps.
    pub update_every: usize,
    /// α, the factor on the learning rate of projected weights.
    pub scale: f64,
    /// Rounds of randomised subspace iteration; a full decomposition if absent.
    pub iterations: Option<usize>,
    /// Projections whose gradients are projected; every one of the blocks if absent.
    #[serde(flatten)]
    pub selection: Selection,
}

impl Default for GaLore {
    fn default() -> Self {
        Self { rank: 8, update_every: 200, scale: 0.25, iterations: None, selection: Selection::default() }
    }
}

impl GaLore {
    fn targets<'o>(&self, outline: &'o Outline) -> Result<Vec<&'o ProjectionInfo>, NotApplicable> {
        check_rank("rank", self.rank)?;
        check_interval("update_every", self.update_every)?;
        self.selection.select(&BLOCKS, outline)
    }
}

impl Method for GaLore {
    const CARD: Card = Card {
        name: "galore",
        title: "GaLore",
        family: Family::Baseline,
        paper: "Zhao et al. 2024, arXiv 2403.03507",
        summary: "Every parameter is trained, with an optimizer that keeps Adam's moments of a weight of the blocks in \
                  the subspace of the r leading singular vectors P of its gradient G: R = Pᵀ G (or G P, on the shorter \
                  side), W ← W − η α P Adam(R); P is computed anew every T steps, and the moments stay as they are. \
                  A full decomposition is slow for wide matrices; `iterations` approximates it.",
        identity: Identity::Exact,
        merge: MergeKind::Already,
        not_for: "",
        settings: &[
            ("rank", "8", "r, the dimensions that are left of a gradient's shorter side"),
            ("update_every", "200", "T; the subspace is chosen anew every so many steps"),
            ("scale", "0.25", "α, the factor on the learning rate of projected weights"),
            (
                "iterations",
                "none",
                "rounds of randomised subspace iteration, in place of a full decomposition",
            ),
            ("target_modules", "all of the blocks", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
        ],
    };

    fn label(&self) -> String {
        let targets = self.selection.label("all");
        format!("galore r={} T={} {targets}", self.rank, self.update_every)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        self.targets(outline)?;
        Ok(Count::all(outline.body().map(ParamInfo::elements).sum()))
    }

    fn trains(&self, _: &ParamInfo) -> bool {
        true
    }

    fn needs_adamw(&self) -> bool {
        true
    }

    fn optimizer(
        &self,
        optimizer: ModuleOptimizer,
        constants: AdamConstants,
        model: &Model,
        outline: &Outline,
    ) -> ModuleOptimizer {
        let Ok(targets) = self.targets(outline) else { return optimizer };
        let is_target = |name: &str| {
            let module = name.strip_suffix(".weight");
            module.is_some_and(|module| targets.iter().any(|target| target.name == module))
        };
        let ids = params::infos(model).into_iter().filter(|info| is_target(&info.name)).map(|info| info.id);
        let projected = Projected {
            adam: AdamConstants { weight_decay: 0.0, ..constants }.adamw(),
            weight_decay: constants.weight_decay,
            rank: self.rank,
            update_every: self.update_every,
            scale: self.scale,
            how: self.iterations.map_or(Decomposition::Exact, Decomposition::Randomised),
        };
        optimizer.with_group(ParamGroup::from_ids(ids.collect()), projected, None)
    }
}

/// AdamW in a subspace.
#[derive(Clone)]
struct Projected {
    /// Without weight decay.
    adam: AdamW,
    weight_decay: f64,
    rank: usize,
    update_every: usize,
    scale: f64,
    how: Decomposition,
}

impl Projected {
    /// The leading singular vectors of `gradient` `[in, out]` on its shorter side, as columns.
    fn basis(&self, gradient: Tensor<2>) -> Tensor<2> {
        let [input, output] = gradient.dims();
        let rank = self.rank.min(input).min(output);
        let mut init = Initializer::new(0, &gradient.device());
        let found = leading(&gradient, rank, self.how, &mut init);
        let vectors = if on_the_left([input, output]) { found.u } else { found.v };
        tensor(&vectors, &gradient.device())
    }
}

/// Whether a gradient `[in, out]` is projected on its left: the reference, which has it `[out, in]`, projects a square
/// one on its right.
fn on_the_left([input, output]: [usize; 2]) -> bool {
    output >= input
}

impl Optimizer for Projected {
    type State<const D: usize> = ProjectedState;

    fn step<const D: usize>(
        &self,
        learning_rate: f64,
        tensor: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let dims = tensor.dims();
        let [input, output] = dims[..] else {
            unreachable!("only the weights of projections are in this optimizer's group")
        };
        let gradient: Tensor<2> = gradient.reshape::<2, _>([input, output]).cast(DType::F32);
        let (basis, moments) = match state {
            Some(ProjectedState { moments, .. }) if moments.steps.is_multiple_of(self.update_every) => {
                (self.basis(gradient.clone()), Some(moments))
            }
            Some(ProjectedState { basis, moments }) => (basis, Some(moments)),
            None => (self.basis(gradient.clone()), None),
        };
        let left = on_the_left([input, output]);
        let projected = match left {
            true => basis.clone().transpose().matmul(gradient),
            false => gradient.matmul(basis.clone()),
        };
        // a step from zero is the update itself, with its sign turned
        let (update, moments) = self.adam.step(1.0, projected.zeros_like(), projected, moments);
        let update = match left {
            true => basis.clone().matmul(update),
            false => update.matmul(basis.clone().transpose()),
        };
        let update = cast_like((update * (learning_rate * self.scale)).reshape::<D, _>(dims), &tensor);
        let tensor = tensor * (1.0 - learning_rate * self.weight_decay) + update;
        (tensor, moments.map(|moments| ProjectedState { basis, moments }))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        let ProjectedState { basis, moments } = state;
        ProjectedState { basis: basis.to_device(device), moments: AdamW::to_device::<2>(moments, device) }
    }
}

/// What is kept of a weight between steps.
#[derive(Clone)]
struct ProjectedState {
    /// `[in, r]` or `[out, r]`
    basis: Tensor<2>,
    /// `[r, out]` or `[in, r]`
    moments: AdamWState<2>,
}

impl RecordState for ProjectedState {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_tensor(prefix, "basis", self.basis.clone().into_data());
        self.moments.state_flatten(&join_path(prefix, "moments"), out);
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, device: &Device) -> Option<Self> {
        Some(Self {
            basis: Tensor::from_data(source.take_tensor(prefix, "basis")?, device),
            moments: AdamWState::state_unflatten(&join_path(prefix, "moments"), source, device)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    fn optimizer(rank: usize) -> Projected {
        let constants = AdamConstants { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };
        Projected {
            adam: constants.adamw(),
            weight_decay: 0.0,
            rank,
            update_every: 2,
            scale: 1.0,
            how: Decomposition::Exact,
        }
    }

    fn matrix([rows, columns]: [usize; 2]) -> Tensor<2> {
        let value = |i: usize| ((i * 7919 + 13) % 101) as f32 / 50.0 - 1.0;
        let values: Vec<f32> = (0..rows * columns).map(value).collect();
        Tensor::from_data(TensorData::new(values, [rows, columns]), &Device::flex())
    }

    #[test]
    fn the_projector_is_orthonormal_and_the_state_has_the_shorter_side_cut_to_the_rank() {
        for (shape, side, moments) in
            [([6, 9], 6, [3, 9]), ([9, 6], 6, [9, 3]), ([7, 7], 7, [3, 7]), ([2, 5], 2, [2, 5])]
        {
            let (weight, gradient) = (Tensor::zeros(shape, &Device::flex()), matrix(shape));
            let (_, state) = optimizer(3).step::<2>(0.1, weight, gradient, None);
            let ProjectedState { basis, moments: adam } = state.expect("it keeps a state");
            let rank = 3.min(side);
            assert_eq!(basis.dims(), [side, rank]);
            assert_eq!(adam.first.dims(), moments);
            let gram = basis.clone().transpose().matmul(basis);
            let error = (gram - Tensor::<2>::eye(rank, &Device::flex())).abs().max().into_scalar::<f32>();
            assert!(error < 1e-5, "{shape:?}: {error}");
        }
    }

    #[test]
    fn an_update_stays_in_the_subspace() {
        let (optimizer, gradient) = (optimizer(2), matrix([6, 9]));
        let basis = optimizer.basis(gradient.clone());
        let (weight, _) = optimizer.step::<2>(0.1, Tensor::zeros([6, 9], &Device::flex()), gradient, None);
        let inside = basis.clone().matmul(basis.transpose().matmul(weight.clone()));
        assert!((inside - weight.clone()).abs().max().into_scalar::<f32>() < 1e-5);
        assert!(weight.abs().max().into_scalar::<f32>() > 1e-3);
    }
}
