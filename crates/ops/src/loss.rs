use burn::tensor::activation::log_softmax;
use burn::tensor::{FloatDType, Int, Tensor};

/// Sum over the rows of the cross-entropy in nats, and each row's own: rows with label -100 count nothing.
///
/// `logits` is `[rows, classes]`, `labels` `[rows]` with values below `classes` or -100. Returns `[1]` and
/// `[rows]`. The logits are taken to `f32` first.
pub fn cross_entropy_sum(logits: Tensor<2>, labels: Tensor<1, Int>) -> (Tensor<1>, Tensor<1>) {
    let [rows, _] = logits.dims();
    let ignored = labels.clone().lower_elem(0);
    let targets = labels.mask_fill(ignored.clone(), 0).reshape([rows, 1]);
    let log_probabilities = log_softmax(logits.cast(FloatDType::F32), 1);
    let each = log_probabilities.gather(1, targets).reshape([rows]).neg().mask_fill(ignored, 0.0);
    (each.clone().sum(), each)
}

/// Mean squared error of `predictions` against `targets`, both `[rows]`: `[1]`.
pub fn mean_squared_error(predictions: Tensor<1>, targets: Tensor<1>) -> Tensor<1> {
    (predictions.cast(FloatDType::F32) - targets).square().mean()
}
