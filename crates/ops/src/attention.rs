use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, FloatDType, Int, Tensor};

use crate::cast_like;

/// A score that no real one reaches. Finite, so that a row with every key masked (a padded query)
/// gives a uniform distribution and not NaN, as `transformers` does.
const MASKED: f32 = -3.0e38;

/// Scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762), `softmax(q kᵀ / sqrt(d)) v`.
///
/// `query` is `[batch, heads, queries, head]`, `key` and `value` `[batch, heads, keys, head]`; `mask`
/// broadcasts to `[batch, heads, queries, keys]` and is true where a key must not be seen. `drop` is
/// applied to the probabilities. The softmax is computed in `f32`.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<4, Bool>>,
    drop: impl FnOnce(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let [_, _, _, head] = query.dims();
    let scores = (query * (head as f64).powf(-0.5)).matmul(key.swap_dims(2, 3));
    let scores = scores.cast(FloatDType::F32);
    let scores = match mask {
        Some(mask) => {
            let dims = scores.dims();
            scores.mask_fill(mask.expand(dims), MASKED)
        }
        None => scores,
    };
    let probabilities = cast_like(softmax(scores, 3), &value);
    drop(probabilities).matmul(value)
}

/// True where query `i` must not see key `j`, for `j > i` or, with a `window`, `j <= i - window`:
/// `[1, 1, length, extra + length]`. The `extra` keys in front (a prefix) have the places `-extra` to `-1`, and leave a
/// window as others do, as in `transformers`.
pub fn causal_mask(length: usize, extra: usize, window: Option<usize>, device: &Device) -> Tensor<4, Bool> {
    let query = Tensor::<1, Int>::arange(0..length as i64, device).reshape([1, 1, length, 1]);
    let keys = -(extra as i64)..length as i64;
    let key = Tensor::<1, Int>::arange(keys, device).reshape([1, 1, 1, extra + length]);
    let shape = [1, 1, length, extra + length];
    let (key, query) = (key.expand(shape), query.expand(shape));
    let later = key.clone().greater(query.clone());
    // a window that holds the whole sequence hides nothing
    match window.filter(|window| *window < extra + length) {
        None => later,
        Some(window) => later.bool_or(key.lower_equal(query - window as i64)),
    }
}

/// True where a key is padding, from `padding` `[batch, length]` (true at padded positions):
/// `[batch, 1, 1, extra + length]`. The `extra` keys in front are never padding.
pub fn padding_mask(padding: Tensor<2, Bool>, extra: usize) -> Tensor<4, Bool> {
    let [batch, length] = padding.dims();
    let keys = if extra == 0 {
        padding
    } else {
        let seen = Tensor::<2, Int>::zeros([batch, extra], &padding.device()).bool();
        Tensor::cat(vec![seen, padding], 1)
    };
    keys.reshape([batch, 1, 1, extra + length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_front_leave_a_window_as_others_do() {
        let hidden = |length, extra, window| {
            let mask = causal_mask(length, extra, window, &Device::flex());
            mask.into_data().iter::<bool>().map(|hidden| if hidden { 'x' } else { '.' }).collect::<String>()
        };
        assert_eq!(hidden(3, 2, None), "...xx....x.....");
        // what PEFT's prefix on a Mistral of `transformers` 5.24 sees
        assert_eq!(hidden(3, 2, Some(3)), "...xxx...xxx...");
        assert_eq!(hidden(3, 2, Some(4)), "...xx....xx....");
        assert_eq!(hidden(3, 0, Some(2)), ".xx..xx..");
    }
}
