//! Linear maps whose frozen weight stays packed in four bits.
//!
//! The dense weight is made for one product and dropped again, in the forward pass and once more in the backward pass.
//! Burn's own quantised tensors keep it alive from one to the other under autodiff.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::module::Module;
use burn::tensor::{DType, Device, Int, Shape, Tensor, TensorData};

use crate::codec::{self, Compressed, Levels, Quantised};

/// How a weight is put into four bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scheme {
    /// Blocks of consecutive values, each with its largest absolute value as scale (QLoRA, Dettmers et al. 2023, arXiv
    /// 2305.14314).
    Blocks {
        /// What the codes stand for.
        levels: Levels,
        /// Values in a block.
        block: usize,
        /// Whether the scales are put into eight bits themselves.
        double: bool,
    },
    /// Groups of inputs of each output, evenly spaced between their extremes, with a zero point that is no integer
    /// (QA-LoRA, Xu et al. 2023, arXiv 2309.14717). The groups divide the inputs.
    Groups {
        /// Inputs in a group.
        group: usize,
    },
}

/// A weight `[out, in]` of which every value has a code of four bits, and every block of consecutive values a scale and
/// a zero: `scale * (table[code] - zero)`.
#[derive(Module, Debug)]
pub struct Packed {
    /// Eight codes a word: bytes in the machine's order, the first of two codes in the byte's high nibble.
    codes: Tensor<1, Int>,
    /// One for each block, or, where they have codes themselves, one for each 256 of those.
    scales: Tensor<1>,
    /// Codes of the scales, four a word; one word alone where scales are kept as they are.
    scale_codes: Tensor<1, Int>,
    /// One for each block, in units of the table; one alone where it is the same everywhere.
    zeros: Tensor<1>,
    /// The value of each code, and after them those of the scales' codes.
    table: Tensor<1>,
    #[module(skip)]
    layout: Layout,
    #[module(skip)]
    scheme: Scheme,
}

/// Sizes of a packed weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    /// Values in a block.
    pub block: usize,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// What was taken off the scales before they got codes; none where they have none.
    pub scale_offset: Option<f32>,
}

impl Layout {
    fn blocks(self) -> usize {
        (self.rows * self.columns).div_ceil(self.block)
    }
}

fn integers(bytes: &[u8], device: &Device) -> Tensor<1, Int> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    let (words, _) = padded.as_chunks::<4>();
    let words: Vec<i32> = words.iter().map(|word| i32::from_le_bytes(*word)).collect();
    let count = words.len();
    Tensor::from_data(TensorData::new(words, [count]), (device, DType::I32))
}

fn floats(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), (device, DType::F32))
}

impl Packed {
    /// Packs `weight` `[out, in]`.
    pub fn quantise(weight: &Tensor<2>, scheme: Scheme) -> Self {
        let shape = weight.dims();
        let values: Vec<f32> = weight.clone().into_data().iter::<f32>().collect();
        Self::from_values(&values, shape, scheme, &weight.device())
    }

    /// Packs the values of a weight `[out, in]`, row-major.
    pub fn from_values(values: &[f32], [rows, columns]: [usize; 2], scheme: Scheme, device: &Device) -> Self {
        match scheme {
            Scheme::Blocks { levels, block, double } => {
                let Quantised { codes, absmax } = codec::quantise(values, levels, block);
                let mut table = levels.table().to_vec();
                let (scales, scale_codes, scale_offset) = match double {
                    false => (absmax, vec![0], None),
                    true => {
                        let Compressed { codes, absmax, offset } = codec::compress(&absmax);
                        table.extend(codec::dynamic_table());
                        (absmax, codes, Some(offset))
                    }
                };
                let layout = Layout { block, rows, columns, scale_offset };
                let parts = Parts { codes, scales, scale_codes, zeros: vec![0.0], table };
                Self::new(parts, layout, scheme, device)
            }
            Scheme::Groups { group } => {
                let codec::Grouped { codes, scales, zeros } = codec::quantise_groups(values, group);
                let table = (0..16u8).map(f32::from).collect();
                let layout = Layout { block: group, rows, columns, scale_offset: None };
                Self::new(Parts { codes, scales, scale_codes: vec![0], zeros, table }, layout, scheme, device)
            }
        }
    }

    fn new(parts: Parts, layout: Layout, scheme: Scheme, device: &Device) -> Self {
        let Parts { codes, scales, scale_codes, zeros, table } = parts;
        Self {
            codes: integers(&codes, device),
            scales: floats(scales, device),
            scale_codes: integers(&scale_codes, device),
            zeros: floats(zeros, device),
            table: floats(table, device),
            layout,
            scheme,
        }
    }

    /// Another weight `[out, in]` packed by the same rule.
    #[must_use]
    pub fn repack(&self, weight: Tensor<2>) -> Self {
        Self::quantise(&weight, self.scheme)
    }

    /// Sizes.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Bytes of codes, scales and zeros; the table is the same for all weights.
    pub fn bytes(&self) -> usize {
        let words = |tensor: usize| if tensor > 1 { tensor * 4 } else { 0 };
        let (scale_codes, zeros) = (self.scale_codes.dims()[0], self.zeros.dims()[0]);
        (self.codes.dims()[0] + self.scales.dims()[0]) * 4 + words(scale_codes) + words(zeros)
    }

    /// Scale of each block, where scales have no codes.
    pub fn scales(&self) -> Tensor<1> {
        self.scales.clone()
    }

    /// Everything that the values follow from: codes, scales, their codes, and zeros.
    pub fn data(&self) -> [TensorData; 4] {
        let Self { codes, scales, scale_codes, zeros, .. } = self.clone();
        [codes.into_data(), scales.into_data(), scale_codes.into_data(), zeros.into_data()]
    }

    /// The same codes and scales with other zeros, one for each block.
    #[must_use]
    pub fn with_zeros(&self, zeros: Tensor<1>) -> Self {
        Self { zeros, ..self.clone() }
    }

    /// Zero of each block.
    pub fn zeros(&self) -> Tensor<1> {
        let blocks = self.layout.blocks();
        if self.zeros.dims()[0] == blocks { self.zeros.clone() } else { self.zeros.clone().expand([blocks]) }
    }

    /// The dense weight, `[out, in]`, in `f32`.
    pub fn unpack(&self) -> Tensor<2> {
        let Self { codes, scales, scale_codes, zeros, table, layout, .. } = self.clone();
        Tensor::from_dispatch(<Dispatch as PackedOps>::unpack(
            codes.into_dispatch(),
            scales.into_dispatch(),
            scale_codes.into_dispatch(),
            zeros.into_dispatch(),
            table.into_dispatch(),
            layout,
        ))
    }

    /// `input Ŵᵀ`: `[rows, in]` to `[rows, out]`. The gradient goes to the input alone.
    pub fn linear(&self, input: Tensor<2>) -> Tensor<2> {
        let Self { codes, scales, scale_codes, zeros, table, layout, .. } = self.clone();
        Tensor::from_dispatch(<Dispatch as PackedOps>::packed_linear(
            input.into_dispatch(),
            codes.into_dispatch(),
            scales.into_dispatch(),
            scale_codes.into_dispatch(),
            zeros.into_dispatch(),
            table.into_dispatch(),
            layout,
        ))
    }
}

/// A packed weight on the host.
struct Parts {
    codes: Vec<u8>,
    scales: Vec<f32>,
    scale_codes: Vec<u8>,
    zeros: Vec<f32>,
    table: Vec<f32>,
}

/// The operations on packed weights, for each backend.
#[allow(unreachable_pub, reason = "the macro's code is outside of this module's visibility")]
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff, Fusion: cfg(feature = "cube"))]
pub trait PackedOps: Backend {
    /// The dense weight, `[out, in]`. The body in tensor operations is every backend's but for those that have a
    /// better one.
    #[fusion(default)]
    fn unpack(
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scale_codes: IntTensor<Self>,
        zeros: FloatTensor<Self>,
        table: FloatTensor<Self>,
        layout: Layout,
    ) -> FloatTensor<Self> {
        let Layout { block, rows, columns, scale_offset } = layout;
        let blocks = layout.blocks();
        let scales = match scale_offset {
            None => scales,
            Some(offset) => {
                // the scales' codes count from the first entry after the sixteen levels
                let indices = Self::int_add_scalar(fields::<Self>(scale_codes, 8), 16.into());
                let values = Self::float_select(table.clone(), 0, indices);
                let count = values.shape()[0];
                let repeated = repeat::<Self>(scales, codec::SECOND_BLOCK);
                let length = repeated.shape()[0].min(count);
                let cut = |tensor| Self::float_slice(tensor, &[(0..length).into()]);
                let scaled = Self::float_mul(cut(values), cut(repeated));
                let scaled = Self::float_slice(scaled, &[(0..blocks).into()]);
                Self::float_add_scalar(scaled, offset.into())
            }
        };
        // a short last block is filled up: with the padding of the codes, and zeros where that is too short
        let values = Self::float_select(table, 0, fields::<Self>(codes, 4));
        let (have, want) = (values.shape()[0], blocks * block);
        let values = if have >= want {
            Self::float_slice(values, &[(0..want).into()])
        } else {
            let device = scales.device();
            let missing =
                Self::float_zeros(Shape::new([want - have]), &device, burn::tensor::FloatDType::F32);
            Self::float_cat(vec![values, missing], 0)
        };
        let column = |tensor: FloatTensor<Self>| {
            let entries = tensor.shape()[0];
            Self::float_reshape(tensor, Shape::new([entries, 1]))
        };
        let values = Self::float_reshape(values, Shape::new([blocks, block]));
        let values = Self::float_mul(Self::float_sub(values, column(zeros)), column(scales));
        let values = Self::float_reshape(values, Shape::new([want]));
        let count = rows * columns;
        Self::float_reshape(Self::float_slice(values, &[(0..count).into()]), Shape::new([rows, columns]))
    }

    /// `input Ŵᵀ`, in the input's element type.
    #[fusion(default)]
    fn packed_linear(
        input: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scale_codes: IntTensor<Self>,
        zeros: FloatTensor<Self>,
        table: FloatTensor<Self>,
        layout: Layout,
    ) -> FloatTensor<Self> {
        let dtype = input.dtype();
        let dense = Self::unpack(codes, scales, scale_codes, zeros, table, layout);
        let dense = if dtype == DType::F32 { dense } else { Self::float_cast(dense, dtype.into()) };
        Self::float_matmul(input, Self::float_transpose(dense))
    }
}

/// The fields of `bits` bits in the words' bytes, in the order of the bytes and of each byte from the high bits down.
fn fields<B: Backend>(words: IntTensor<B>, bits: usize) -> IntTensor<B> {
    let count = words.shape()[0];
    let (each, mask) = (32 / bits, (1i64 << bits) - 1);
    let in_byte = 8 / bits;
    let field = |k: usize| {
        let shift = 8 * (k / in_byte) + bits * (in_byte - 1 - k % in_byte);
        let shifted = B::bitwise_right_shift_scalar(words.clone(), (shift as i64).into());
        B::int_reshape(B::bitwise_and_scalar(shifted, mask.into()), Shape::new([count, 1]))
    };
    B::int_reshape(B::int_cat((0..each).map(field).collect(), 1), Shape::new([count * each]))
}

/// Each value `times` times in a row.
fn repeat<B: Backend>(values: FloatTensor<B>, times: usize) -> FloatTensor<B> {
    let count = values.shape()[0];
    let column = B::float_reshape(values, Shape::new([count, 1]));
    B::float_reshape(B::float_repeat_dim(column, 1, times), Shape::new([count * times]))
}

impl PackedOps for Flex {
    fn unpack(
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scale_codes: IntTensor<Self>,
        zeros: FloatTensor<Self>,
        table: FloatTensor<Self>,
        layout: Layout,
    ) -> FloatTensor<Self> {
        let [codes, scale_codes] = [codes, scale_codes].map(|tensor| tensor.to_contiguous());
        let (bytes, scale_codes) = (codes.bytes(), scale_codes.bytes());
        let [scales, zeros, table] = [scales, zeros, table].map(|tensor| tensor.to_contiguous());
        let (scales, zeros, table) =
            (scales.storage::<f32>(), zeros.storage::<f32>(), table.storage::<f32>());
        let Layout { block, rows, columns, scale_offset } = layout;
        let mut dense = vec![0.0f32; rows * columns];
        for (number, part) in dense.chunks_mut(block).enumerate() {
            let scale = match scale_offset {
                None => scales[number],
                Some(offset) => {
                    let value = table[16 + usize::from(scale_codes[number])];
                    value * scales[number / codec::SECOND_BLOCK] + offset
                }
            };
            let zero = zeros[if zeros.len() > 1 { number } else { 0 }];
            let levels: [f32; 16] = std::array::from_fn(|code| (table[code] - zero) * scale);
            let start = number * block;
            for (i, value) in part.iter_mut().enumerate() {
                *value = levels[codec::code(bytes, start + i)];
            }
        }
        burn::backend::flex::FlexTensor::from_data(TensorData::new(dense, [rows, columns]))
    }
}

#[cfg(feature = "cube")]
impl PackedOps for burn::backend::Cube {}

#[allow(clippy::redundant_closure_for_method_calls, reason = "the method's path is Burn's own affair")]
impl<B: PackedOps, C: CheckpointStrategy> PackedOps for Autodiff<B, C> {
    fn unpack(
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scale_codes: IntTensor<Self>,
        zeros: FloatTensor<Self>,
        table: FloatTensor<Self>,
        layout: Layout,
    ) -> FloatTensor<Self> {
        let [scales, zeros, table] = [scales, zeros, table].map(|tensor| tensor.into_primitive());
        FloatTensor::<Self>::new(B::unpack(codes, scales, scale_codes, zeros, table, layout))
    }

    fn packed_linear(
        input: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scale_codes: IntTensor<Self>,
        zeros: FloatTensor<Self>,
        table: FloatTensor<Self>,
        layout: Layout,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct PackedLinear;

        impl<B: PackedOps> Backward<B, 1> for PackedLinear {
            /// Packed all of it: this is the point.
            type State = ([IntTensor<B>; 2], [FloatTensor<B>; 3], Layout);

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let ([codes, scale_codes], [scales, zeros, table], layout) = ops.state;
                unary::<B, _>(ops.parents, ops.node, grads, |grad| {
                    let dense = B::unpack(codes, scales, scale_codes, zeros, table, layout);
                    let dtype = grad.dtype();
                    let dense = if dtype == DType::F32 { dense } else { B::float_cast(dense, dtype.into()) };
                    B::float_matmul(grad, dense)
                });
            }
        }

        let [scales, zeros, table] = [scales, zeros, table].map(|tensor| tensor.into_primitive());
        let node = input.node();
        let output = |input: FloatTensor<Self>| {
            let (codes, scale_codes) = (codes.clone(), scale_codes.clone());
            let (scales, zeros, table) = (scales.clone(), zeros.clone(), table.clone());
            B::packed_linear(input.into_primitive(), codes, scales, scale_codes, zeros, table, layout)
        };
        match PackedLinear.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let output = output(input);
                prep.finish(([codes, scale_codes], [scales, zeros, table], layout), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(output(input)),
        }
    }
}
