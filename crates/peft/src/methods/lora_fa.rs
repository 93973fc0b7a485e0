use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor, TensorData};
use peftlab_layers::{Initializer, Linear, Model};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::low_rank::{LoraAdapter, LowRank, QUERY_VALUE, lora_config};
use crate::{
    Card, Count, Course, Family, Identity, MergeKind, Method, NotApplicable, Outline, Policy, Targets,
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
    pub target_modules: Option<Targets>,
}

impl Default for LoraFa {
    fn default() -> Self {
        Self { rank: 8, alpha: 8.0, dropout: 0.0, precondition: true, target_modules: None }
    }
}

impl LoraFa {
    fn low_rank(&self) -> LowRank<'_> {
        LowRank {
            rank: self.rank,
            scale: self.alpha / self.rank as f64,
            dropout: self.dropout,
            targets: self.target_modules.as_ref(),
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
        ],
    };

    fn label(&self) -> String {
        let plain = if self.precondition { "" } else { " plain" };
        format!("lora-fa{plain} r={} {}", self.rank, Targets::label(self.target_modules.as_ref(), "q,v"))
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
        low_rank.attach(model, outline, |projection| {
            let LoraAdapter { lora_A, lora_B, scale, dropout } = low_rank.init(&projection.info, init);
            let lora_A = Linear { weight: lora_A.weight.set_require_grad(false), bias: None };
            LoraAdapter { lora_A, lora_B, scale, dropout }
        })
    }

    fn policy(&self, _: Course) -> Option<Box<dyn Policy>> {
        self.precondition.then(|| -> Box<dyn Policy> { Box::new(Precondition { inverses: Vec::new() }) })
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        lora_config(&self.low_rank(), self.alpha, outline)
    }
}

/// Multiplies gradients of B by what undoes A.
struct Precondition {
    /// For every target; A does not change, so they are made once.
    inverses: Vec<Tensor<2>>,
}

/// `(s⁻² (Aᵀ A + 1e-8 I)⁻¹)` `[r, r]` for `a` `[in, r]`: the pseudo-inverse, where A has less than full rank.
fn inverse(a: Tensor<2>, scale: f64) -> Tensor<2> {
    let device = a.device();
    let gram = a.clone().transpose().matmul(a).cast(DType::F32);
    let rank = gram.dims()[0];
    let (u, s, vt) = burn::linalg::svd::<2, 1>(gram + Tensor::<2>::eye(rank, &device) * 1e-8, 100);
    let singular: Vec<f32> = s.into_data().iter::<f32>().collect();
    let smallest = rank as f32 * f32::EPSILON * singular.first().copied().unwrap_or(0.0);
    let inverted = singular
        .iter()
        .map(|value| if *value > smallest { (1.0 / (f64::from(*value) * scale * scale)) as f32 } else { 0.0 });
    let inverted = TensorData::new(inverted.collect::<Vec<f32>>(), [1, rank]);
    let inverted = Tensor::<2>::from_data(inverted, (&device, DType::F32));
    (vt.transpose() * inverted).matmul(u.transpose())
}

impl Policy for Precondition {
    fn gradients(&mut self, model: &mut Model, mut gradients: GradientsParams) -> GradientsParams {
        let adapters = adapters_mut::<LoraAdapter>(model);
        if self.inverses.is_empty() {
            let of = |adapter: &LoraAdapter| inverse(adapter.lora_A.weight.val().inner(), adapter.scale);
            self.inverses = adapters.iter().map(|(_, adapter)| of(adapter)).collect();
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
        let product = inverse(a.clone(), 2.0).matmul(a.clone().transpose().matmul(a)) * 4.0;
        let error = (product - Tensor::<2>::eye(4, &Device::flex())).abs().max().into_scalar::<f32>();
        assert!(error < 1e-4, "{error}");
    }
}
