//! GGML's tensor types: their names, their sizes, and the values in their blocks
//! (<https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>).
//!
//! Products and sums are of `f32` in the order of the `gguf` Python package, so that the values are the same to the bit.

use half::f16;

use crate::{Dtype, floats};

/// Values in a block of the plain quantised types.
const BLOCK: usize = 32;
/// Values in a block of the K types.
const SUPER_BLOCK: usize = 256;

/// The types that can be read, by their number in the file.
const READABLE: [(u32, Dtype); 13] = [
    (0, Dtype::F32),
    (1, Dtype::F16),
    (30, Dtype::BF16),
    (2, Dtype::Q4_0),
    (3, Dtype::Q4_1),
    (6, Dtype::Q5_0),
    (7, Dtype::Q5_1),
    (8, Dtype::Q8_0),
    (10, Dtype::Q2_K),
    (11, Dtype::Q3_K),
    (12, Dtype::Q4_K),
    (13, Dtype::Q5_K),
    (14, Dtype::Q6_K),
];

/// Names of the types that cannot, so that a message may say them.
const OTHERS: [(u32, &str); 28] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// The element type with that number, or what to say of it.
pub(super) fn dtype(number: u32) -> Result<Dtype, String> {
    if let Some((_, dtype)) = READABLE.iter().find(|(known, _)| *known == number) {
        return Ok(*dtype);
    }
    let name = OTHERS.iter().find(|(known, _)| *known == number);
    let name = name.map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned());
    let readable: Vec<String> = READABLE.iter().map(|(_, dtype)| format!("{dtype:?}")).collect();
    Err(format!(
        "has the GGML type {name}, which cannot be read; take a file of one of the types {}",
        readable.join(", ")
    ))
}

/// Values of a block and its bytes; plain types have blocks of one value.
pub(super) fn block(dtype: Dtype) -> (usize, usize) {
    match dtype {
        Dtype::F32 => (1, 4),
        Dtype::F16 | Dtype::BF16 => (1, 2),
        Dtype::F64 | Dtype::I64 => (1, 8),
        // no type of GGUF's
        Dtype::Other(_) => (1, 1),
        Dtype::Q4_0 => (BLOCK, 18),
        Dtype::Q4_1 => (BLOCK, 20),
        Dtype::Q5_0 => (BLOCK, 22),
        Dtype::Q5_1 => (BLOCK, 24),
        Dtype::Q8_0 => (BLOCK, 34),
        Dtype::Q2_K => (SUPER_BLOCK, 84),
        Dtype::Q3_K => (SUPER_BLOCK, 110),
        Dtype::Q4_K => (SUPER_BLOCK, 144),
        Dtype::Q5_K => (SUPER_BLOCK, 176),
        Dtype::Q6_K => (SUPER_BLOCK, 210),
    }
}

/// Bytes of a tensor; none where a row is not made of whole blocks, or nobody could have that many.
pub(super) fn byte_size(shape: &[usize], dtype: Dtype) -> Option<usize> {
    let (values, bytes) = block(dtype);
    let row = shape.last().copied().unwrap_or(1);
    let elements = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n))?;
    row.is_multiple_of(values).then_some(elements / values)?.checked_mul(bytes)
}

/// The values of whole blocks.
pub(super) fn values(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    if let Some(plain) = floats(bytes, dtype) {
        return plain;
    }
    let (count, size) = block(dtype);
    let mut out = Vec::with_capacity(bytes.len() / size * count);
    for block in bytes.chunks_exact(size) {
        match dtype {
            Dtype::Q8_0 => {
                let scale = half(block, 0);
                out.extend(block[2..].iter().map(|code| scale * f32::from(*code as i8)));
            }
            Dtype::Q4_0 => four_or_five_bits(&block[2..], None, &mut out, symmetric(half(block, 0), 8.0)),
            Dtype::Q5_0 => {
                four_or_five_bits(&block[6..], Some(&block[2..6]), &mut out, symmetric(half(block, 0), 16.0));
            }
            Dtype::Q4_1 => {
                four_or_five_bits(&block[4..], None, &mut out, affine(half(block, 0), half(block, 2)));
            }
            Dtype::Q5_1 => {
                let value = affine(half(block, 0), half(block, 2));
                four_or_five_bits(&block[8..], Some(&block[4..8]), &mut out, value);
            }
            Dtype::Q2_K => q2_k(block, &mut out),
            Dtype::Q3_K => q3_k(block, &mut out),
            Dtype::Q4_K => q4_k(block, &mut out),
            Dtype::Q5_K => q5_k(block, &mut out),
            Dtype::Q6_K => q6_k(block, &mut out),
            Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::I64 | Dtype::Other(_) => {}
        }
    }
    out
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn symmetric(scale: f32, zero: f32) -> impl Fn(u8) -> f32 {
    move |code| scale * (f32::from(code) - zero)
}

fn affine(scale: f32, minimum: f32) -> impl Fn(u8) -> f32 {
    move |code| scale * f32::from(code) + minimum
}

/// A block's first half is in the low nibbles, its second in the high ones; fifth bits stand in order.
fn four_or_five_bits(codes: &[u8], fifth: Option<&[u8]>, out: &mut Vec<f32>, value: impl Fn(u8) -> f32) {
    let high = |i: usize| fifth.map_or(0, |bits| (bits[i / 8] >> (i % 8) & 1) << 4);
    out.extend(codes.iter().enumerate().map(|(i, code)| value(code & 15 | high(i))));
    out.extend(codes.iter().enumerate().map(|(i, code)| value(code >> 4 | high(i + codes.len()))));
}

/// 16 groups of 16: scales and minima in nibbles `[0, 16)`, two-bit codes `[16, 80)`, their scales `[80, 84)`.
fn q2_k(block: &[u8], out: &mut Vec<f32>) {
    let (scale, minimum) = (half(block, 80), half(block, 82));
    for (group, packed) in block[..16].iter().enumerate() {
        let (scale, minimum) = (scale * f32::from(packed & 15), minimum * f32::from(packed >> 4));
        out.extend(two_bits(&block[16..80], group).map(|code| scale * f32::from(code) - minimum));
    }
}

/// 16 groups of 16: third bits `[0, 32)`, two low bits `[32, 96)`, six-bit scales `[96, 108)`, their scale `[108, 110)`.
fn q3_k(block: &[u8], out: &mut Vec<f32>) {
    let scale = half(block, 108);
    let packed = &block[96..108];
    for group in 0..16 {
        let low = packed[group % 8] >> (4 * (group / 8)) & 15;
        let high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
        let scale = scale * (f32::from(low | high << 4) - 32.0);
        let third = &block[16 * (group % 2)..][..16];
        out.extend(two_bits(&block[32..96], group).zip(third).map(|(code, bits)| {
            // the bit says that nothing is to be taken away
            let offset = if bits >> (group / 2) & 1 == 1 { 0.0 } else { 4.0 };
            scale * (f32::from(code) - offset)
        }));
    }
}

/// Two-bit codes of a group of 16: 128 values share 32 bytes, the first 32 of them in the lowest bits.
fn two_bits(codes: &[u8], group: usize) -> impl Iterator<Item = u8> {
    let shift = 2 * (group % 8 / 2);
    codes[32 * (group / 8) + 16 * (group % 2)..][..16].iter().map(move |code| code >> shift & 3)
}

/// Six-bit scale and minimum of a group of 32, of the eight in twelve bytes.
fn scale_and_minimum(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => {
            let low = packed[group + 4];
            (low & 15 | packed[group - 4] >> 2 & 48, low >> 4 | packed[group] >> 2 & 48)
        }
    };
    (f32::from(scale), f32::from(minimum))
}

/// 8 groups of 32: scale and minimum `[0, 4)`, those of the groups `[4, 16)`, four-bit codes `[16, 144)`.
fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    for group in 0..8 {
        let (s, m) = scale_and_minimum(&block[4..16], group);
        let (scale, minimum) = (scale * s, minimum * m);
        let codes = &block[16 + 32 * (group / 2)..][..32];
        out.extend(codes.iter().map(|code| scale * f32::from(code >> (4 * (group % 2)) & 15) - minimum));
    }
}

/// As Q4_K, with fifth bits `[16, 48)`, bit `i` of each for group `i`; codes `[48, 176)`.
fn q5_k(block: &[u8], out: &mut Vec<f32>) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    for group in 0..8 {
        let (s, m) = scale_and_minimum(&block[4..16], group);
        let (scale, minimum) = (scale * s, minimum * m);
        let codes = &block[48 + 32 * (group / 2)..][..32];
        out.extend(codes.iter().zip(&block[16..48]).map(|(code, bits)| {
            let code = code >> (4 * (group % 2)) & 15 | (bits >> group & 1) << 4;
            scale * f32::from(code) - minimum
        }));
    }
}

/// 16 groups of 16: four low bits `[0, 128)`, two high ones `[128, 192)`, scales `[192, 208)`, their scale `[208, 210)`.
fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let scale = half(block, 208);
    for group in 0..16 {
        let scale = scale * f32::from(block[192 + group] as i8);
        // of 128 values: 32 in the low nibbles of bytes 0 to 31, 32 in those of 32 to 63, then the high nibbles
        let (part, quarter, start) = (group / 8, group % 8 / 2, 16 * (group % 2));
        let low = &block[64 * part + 32 * (quarter % 2) + start..][..16];
        let high = &block[128 + 32 * part + start..][..16];
        out.extend(low.iter().zip(high).map(|(low, high)| {
            let code = low >> (4 * (quarter / 2)) & 15 | (high >> (2 * quarter) & 3) << 4;
            scale * (f32::from(code) - 32.0)
        }));
    }
}
