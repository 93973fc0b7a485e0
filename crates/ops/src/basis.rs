//! Linear combinations of random vectors that are never kept.
//!
//! The vectors are made again from a key wherever they are needed: in the forward pass, and once more in the backward
//! pass.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{FloatDType, Shape, Tensor, TensorData};

/// Output `index`, from 0, of SplitMix64 from the state `seed` (Steele, Lea & Flood 2014, doi 10.1145/2660193.2660195):
/// any output by itself, and neighbouring numbers give unrelated ones.
pub fn split_mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `count` vectors of `length` values uniform in [-1, 1), one after another in a stream that is SplitMix64's from the
/// state `key`: the same on every machine, and each value by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BasisStream {
    /// Which stream.
    pub key: u64,
    /// Vectors.
    pub count: usize,
    /// Values of a vector.
    pub length: usize,
}

impl BasisStream {
    /// The values of vector `index`.
    pub fn vector(self, index: usize) -> impl Iterator<Item = f32> {
        let start = (index * self.length) as u64;
        (start..start + self.length as u64).map(move |k| {
            let bits = split_mix(self.key, k) >> 40;
            // 24 bits: exact
            bits as f32 / 8_388_608.0 - 1.0
        })
    }

    fn data(self, index: usize) -> TensorData {
        TensorData::new(self.vector(index).collect::<Vec<f32>>(), [self.length])
    }
}

/// `Σ cᵢ uᵢ`, `[length]`, for coefficients `[count]` and the vectors of `stream`. The gradient goes to the coefficients.
pub fn combine(coefficients: Tensor<1>, stream: BasisStream) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as BasisOps>::combine(coefficients.into_dispatch(), stream))
}

/// The operations on random vectors, for each backend. The bodies in tensor operations are every backend's but for
/// those that have better ones: one vector at a time is made on the host.
#[allow(unreachable_pub, reason = "the macro's code is outside of this module's visibility")]
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff, Fusion: cfg(feature = "cube"))]
pub trait BasisOps: Backend {
    /// `Σ cᵢ uᵢ`, `[length]`.
    #[fusion(default)]
    fn combine(coefficients: FloatTensor<Self>, stream: BasisStream) -> FloatTensor<Self> {
        let device = coefficients.device();
        let mut sum = Self::float_zeros(Shape::new([stream.length]), &device, FloatDType::F32);
        for index in 0..stream.count {
            let vector = Self::float_from_data(stream.data(index), &device);
            let coefficient = Self::float_slice(coefficients.clone(), &[(index..index + 1).into()]);
            sum = Self::float_add(sum, Self::float_mul(vector, coefficient));
        }
        sum
    }

    /// `⟨uᵢ, v⟩` for each vector, `[count]`: the gradient of [`combine`](Self::combine). It has none itself.
    #[fusion(default)]
    fn project(values: FloatTensor<Self>, stream: BasisStream) -> FloatTensor<Self> {
        let device = values.device();
        let products = (0..stream.count).map(|index| {
            let vector = Self::float_from_data(stream.data(index), &device);
            let product = Self::float_sum(Self::float_mul(vector, values.clone()));
            Self::float_reshape(product, Shape::new([1]))
        });
        Self::float_cat(products.collect(), 0)
    }
}

impl BasisOps for Flex {
    fn combine(coefficients: FloatTensor<Self>, stream: BasisStream) -> FloatTensor<Self> {
        let coefficients = coefficients.to_contiguous();
        let mut sum = vec![0.0f32; stream.length];
        for (index, coefficient) in coefficients.storage::<f32>().iter().enumerate() {
            for (sum, value) in sum.iter_mut().zip(stream.vector(index)) {
                *sum += coefficient * value;
            }
        }
        burn::backend::flex::FlexTensor::from_data(TensorData::new(sum, [stream.length]))
    }

    fn project(values: FloatTensor<Self>, stream: BasisStream) -> FloatTensor<Self> {
        let values = values.to_contiguous();
        let values = values.storage::<f32>();
        let product = |index| {
            let products = stream.vector(index).zip(values).map(|(a, b)| f64::from(a) * f64::from(*b));
            products.sum::<f64>() as f32
        };
        let products: Vec<f32> = (0..stream.count).map(product).collect();
        burn::backend::flex::FlexTensor::from_data(TensorData::new(products, [stream.count]))
    }
}

#[cfg(feature = "cube")]
impl BasisOps for burn::backend::Cube {}

impl<B: BasisOps, C: CheckpointStrategy> BasisOps for Autodiff<B, C> {
    fn combine(coefficients: FloatTensor<Self>, stream: BasisStream) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Combine;

        impl<B: BasisOps> Backward<B, 1> for Combine {
            /// The key in the place of the vectors: this is the point.
            type State = BasisStream;

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let stream = ops.state;
                unary::<B, _>(ops.parents, ops.node, grads, |grad| B::project(grad, stream));
            }
        }

        let node = coefficients.node();
        match Combine.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(stream, B::combine(coefficients.into_primitive(), stream)),
            OpsKind::UnTracked(prep) => prep.finish(B::combine(coefficients.into_primitive(), stream)),
        }
    }

    fn project(values: FloatTensor<Self>, stream: BasisStream) -> FloatTensor<Self> {
        FloatTensor::<Self>::new(B::project(values.into_primitive(), stream))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;

    fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
    }

    fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    fn assert_close(ours: &[f32], expected: &[f32]) {
        assert_eq!(ours.len(), expected.len());
        for (ours, expected) in ours.iter().zip(expected) {
            assert!((ours - expected).abs() < 1e-5, "{ours} is not {expected}");
        }
    }

    #[test]
    fn values_are_splitmix64s() {
        let stream = BasisStream { key: 0, count: 1, length: 3 };
        // the upper bits of the first outputs for the seed 0
        let expected = [0x00e2_20a8u32, 0x006e_789e, 0x0006_c45d].map(|bits| bits as f32 / 8_388_608.0 - 1.0);
        assert_eq!(stream.vector(0).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn vectors_follow_one_another() {
        let long = BasisStream { key: 7, count: 1, length: 12 };
        let short = BasisStream { key: 7, count: 3, length: 4 };
        let each: Vec<f32> = (0..3).flat_map(|index| short.vector(index)).collect();
        assert_eq!(long.vector(0).collect::<Vec<_>>(), each);
        assert!(each.iter().all(|value| (-1.0..1.0).contains(value)));
    }

    #[test]
    fn value_and_gradient_are_those_of_the_dense_product() {
        let device = Device::flex().autodiff();
        let stream = BasisStream { key: 0x1234_5678_9abc_def0, count: 5, length: 17 };
        let dense = (0..stream.count).flat_map(|index| stream.vector(index)).collect();
        let dense = tensor(dense, [stream.count, stream.length], &device);
        let weights = tensor((0..17).map(|i| (i as f32 * 0.7).sin()).collect(), [17], &device);
        let start = || tensor(vec![0.5, -1.0, 0.25, 2.0, -0.125], [5], &device).require_grad();

        let ours = start();
        let combined = combine(ours.clone(), stream);
        let theirs = start();
        let product = theirs.clone().unsqueeze::<2>().matmul(dense).flatten::<1>(0, 1);
        assert_close(&host(combined.clone()), &host(product.clone()));

        // squared, so that the gradient depends on the value
        let backward = |output: Tensor<1>| (output.square() * weights.clone()).sum().backward();
        let (our_gradients, their_gradients) = (backward(combined), backward(product));
        assert_close(
            &host(ours.grad(&our_gradients).unwrap()),
            &host(theirs.grad(&their_gradients).unwrap()),
        );
    }

    #[test]
    fn without_autodiff_it_is_the_same() {
        let stream = BasisStream { key: 3, count: 2, length: 4 };
        let plain = combine(tensor(vec![1.0, -2.0], [2], &Device::flex()), stream);
        let expected: Vec<f32> = stream.vector(0).zip(stream.vector(1)).map(|(a, b)| a - 2.0 * b).collect();
        assert_close(&host(plain), &expected);
    }
}
