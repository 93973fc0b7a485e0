use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use peftlab_layers::{Initializer, Model};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::decomposition::{Svd, columns, svd, tensor};
use super::low_rank::{LoraAdapter, LowRank, QUERY_VALUE, lora_config};
use crate::rank_patterns::NO_PATTERNS;
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Course, Family, Identity, MergeKind, Method, NotApplicable, Outline, Policy, Selection,
    adapters_mut,
};

/// LoRA-FA: LoRA with A frozen as it was drawn.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraFa {
    /// r
    pub rank: usize,
    /// α; the update is scaled by α/r.
    pub alpha: f64,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// Whether B's gradient is multiplied by the inverse of A's Gram matrix.
    pub precondition: bool,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
}

impl Default for LoraFa {
    fn default() -> Self {
        Self { rank: 8, alpha: 8.0, dropout: 0.0, precondition: true, selection: Selection::default() }
    }
}

impl LoraFa {
    fn low_rank(&self) -> LowRank<'_> {
        LowRank {
            rank: self.rank,
            alpha: self.alpha,
            by_root: false,
            patterns: &NO_PATTERNS,
            dropout: self.dropout,
            selection: &self.selection,
            roles: &QUERY_VALUE,
        }
    }
}

impl Method for LoraFa {
    const CARD: Card = Card {
        name: "lora-fa",
        title: "LoRA-FA",
        family: Family::Reparameterized,
        paper: "Zhang et al. 2023, arXiv 2308.03303",
        summary: "LoRA with A frozen as it was drawn: y = x W + b + s drop(x) A B, s = α/r, with B alone trained, so that \
                  training keeps drop(x) A of rank r and not x. With `precondition`, as in the paper's later version, \
                  the optimizer sees s⁻² (Aᵀ A)⁻¹ ∂L/∂B, the step whose effect on W is closest to full fine-tuning's.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank", "8", "r"),
            ("alpha", "8", "α; the update is scaled by α/r"),
            ("dropout", "0", "dropout on the input of the update"),
            ("precondition", "true", "multiply B's gradient by the inverse of A's Gram matrix"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
        ],
    };

    fn label(&self) -> String {
        let plain = if self.precondition { "" } else { " plain" };
        format!("lora-fa{plain} r={} {}", self.rank, self.selection.label("q,v"))
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let targets = self.low_rank().select(outline)?;
        let adapter = targets.iter().map(|p| self.rank * p.output).sum();
        let buffers = targets.iter().map(|p| self.rank * p.input).sum();
        Ok(Count { adapter, stored: adapter + buffers, buffers })
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let low_rank = self.low_rank();
        low_rank.attach(model, outline, |projection, at| {
            let mut adapter = at.init(&projection.info, init);
            adapter.lora_A.weight = adapter.lora_A.weight.set_require_grad(false);
            adapter
        })
    }

    fn policy(&self, _: Course) -> Option<Box<dyn Policy>> {
        self.precondition.then(|| -> Box<dyn Policy> { Box::new(Precondition { inverses: Vec::new() }) })
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        lora_config(&self.low_rank(), outline)
    }
}

/// Multiplies gradients of B by what undoes A.
struct Precondition {
    /// For every target; A does not change, so they are made once.
    inverses: Vec<Tensor<2>>,
}

/// `s⁻² (Aᵀ A + 1e-8 I)⁻¹`, `[r, r]`, for `a` `[in, r]`: the pseudo-inverse, where A has less than full rank.
fn inverse(a: &Tensor<2>, scale: f64) -> Tensor<2> {
    let columns = columns(a);
    // the singular values of Aᵀ A are the squares of A's, and its vectors A's right ones
    let Svd { s, v, .. } = svd(&columns);
    let squares: Vec<f64> = s.iter().map(|s| s * s + 1e-8).collect();
    let smallest = s.len() as f64 * f64::from(f32::EPSILON) * squares.first().copied().unwrap_or(0.0);
    let factors =
        squares.iter().map(|square| if *square > smallest { 1.0 / (square * scale * scale) } else { 0.0 });
    let scaled = v.iter().zip(factors).map(|(v, factor)| v.iter().map(|value| value * factor).collect());
    let device = a.device();
    tensor(&scaled.collect(), &device).matmul(tensor(&v, &device).transpose())
}

impl Policy for Precondition {
    fn gradients(&mut self, model: &mut Model, mut gradients: GradientsParams) -> GradientsParams {
        let adapters = adapters_mut::<LoraAdapter>(model);
        if self.inverses.is_empty() {
            let of = |(_, adapter): &(&str, &mut LoraAdapter)| {
                inverse(&adapter.lora_A.weight.val().inner(), adapter.scale)
            };
            self.inverses = adapters.iter().map(of).collect();
        }
        for ((_, adapter), inverse) in adapters.iter().zip(&self.inverses) {
            let id = adapter.lora_B.weight.id;
            if let Some(gradient) = gradients.remove::<2>(id) {
                gradients.register(id, inverse.clone().matmul(gradient));
            }
        }
        gradients
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_inverse_undoes_the_gram_matrix_and_the_scale() {
        let a = Initializer::new(0, &Device::flex()).kaiming([12, 4]).val();
        let product = inverse(&a, 2.0).matmul(a.clone().transpose().matmul(a)) * 4.0;
        let error = (product - Tensor::<2>::eye(4, &Device::flex())).abs().max().into_scalar::<f32>();
        assert!(error < 1e-4, "{error}");
    }
}
