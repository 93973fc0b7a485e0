//! Quantising weights in blocks, bit for bit as bitsandbytes 0.50 does on a CPU (Dettmers et al. 2023, arXiv 2305.14314).
//!
//! Weights are taken in the order of torch's `[out, in]` layout. Every block of consecutive values is divided by its
//! largest absolute value, its absmax, and each quotient becomes the nearest of sixteen levels.

/// Sixteen levels between -1 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// Quantiles of the normal distribution.
    Nf4,
    /// A sign, two bits of exponent, one of fraction.
    Fp4,
    /// Evenly spaced and symmetric; one code is not used.
    Int4,
}

/// NF4's levels by code (bitsandbytes, `functional.py`).
#[allow(clippy::excessive_precision, reason = "as bitsandbytes writes them")]
const NF4: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// FP4's levels by code: the high bit is the sign (bitsandbytes, `backends/utils.py`).
const FP4: [f32; 16] = [
    0.0,
    0.005_208_333_3,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    0.0,
    -0.005_208_333_3,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

impl Levels {
    /// The level of each code.
    pub fn table(self) -> [f32; 16] {
        match self {
            Self::Nf4 => NF4,
            Self::Fp4 => FP4,
            Self::Int4 => std::array::from_fn(|code| (code as f32 - 8.0) / 7.0),
        }
    }

    /// Midpoints between neighbouring levels in ascending order, and the code of each level.
    fn boundaries(self) -> ([f32; 15], [u8; 16]) {
        let table = self.table();
        let mut order: [u8; 16] = std::array::from_fn(|code| code as u8);
        // stable, as torch's argsort: of equal levels the lower code comes first
        order.sort_by(|a, b| table[*a as usize].total_cmp(&table[*b as usize]).then(a.cmp(b)));
        if self == Self::Fp4 {
            // total order tells -0 from 0, torch does not; neither table has one
            debug_assert!(table.iter().all(|level| level.to_bits() != (-0.0f32).to_bits()));
        }
        let level = |i: usize| table[order[i] as usize];
        (std::array::from_fn(|i| (level(i) + level(i + 1)) / 2.0), order)
    }
}

/// Weights in four bits each.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    /// Two codes a byte, the first in the high nibble; an odd tail is padded.
    pub codes: Vec<u8>,
    /// One for each block.
    pub absmax: Vec<f32>,
}

/// The smallest divisor: a block of zeros is not divided by zero.
const SMALLEST: f32 = 1e-38;

/// Quantises `values` in blocks of `block`; the last one may be shorter.
pub fn quantise(values: &[f32], levels: Levels, block: usize) -> Quantised {
    let (bounds, order) = levels.boundaries();
    let mut codes = Vec::with_capacity(values.len());
    let mut absmax = Vec::with_capacity(values.len().div_ceil(block));
    for part in values.chunks(block) {
        let largest = part.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let divisor = largest.max(SMALLEST);
        let full = part.len() == block;
        absmax.push(if full { largest } else { divisor });
        let inverse = 1.0 / divisor;
        codes.extend(part.iter().map(|value| {
            // bitsandbytes multiplies by the reciprocal in full blocks and divides in the tail
            let scaled = (if full { value * inverse } else { value / divisor }).clamp(-1.0, 1.0);
            // on a midpoint the lower level wins
            order[bounds.partition_point(|bound| *bound < scaled)]
        }));
    }
    if !codes.len().is_multiple_of(2) {
        codes.push(order[bounds.partition_point(|bound| *bound < 0.0)]);
    }
    Quantised { codes: codes.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect(), absmax }
}

/// Weights in four bits each, evenly spaced in groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Grouped {
    /// Two codes a byte, the first in the high nibble.
    pub codes: Vec<u8>,
    /// One for each group.
    pub scales: Vec<f32>,
    /// One for each group, in units of the codes: `value = scale * (code - zero)`.
    pub zeros: Vec<f32>,
}

/// Quantises `values` in groups of `group`, from the smallest to the largest of each in fifteen even steps. The zero
/// points are no integers, so that what is merged into them is not rounded.
pub fn quantise_groups(values: &[f32], group: usize) -> Grouped {
    let groups = values.len().div_ceil(group);
    let (mut scales, mut zeros) = (Vec::with_capacity(groups), Vec::with_capacity(groups));
    let mut codes = Vec::with_capacity(values.len() + 1);
    for part in values.chunks(group) {
        let (low, high) = part.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| {
            (low.min(*value), high.max(*value))
        });
        let scale = if high > low { (high - low) / 15.0 } else { 1.0 };
        let zero = -low / scale;
        codes
            .extend(part.iter().map(|value| (value / scale + zero).round_ties_even().clamp(0.0, 15.0) as u8));
        scales.push(scale);
        zeros.push(zero);
    }
    if !codes.len().is_multiple_of(2) {
        codes.push(0);
    }
    Grouped { codes: codes.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect(), scales, zeros }
}

/// The `index`-th code.
#[inline]
pub fn code(codes: &[u8], index: usize) -> usize {
    let byte = codes[index / 2];
    usize::from(if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 })
}

/// Scales in eight bits each: double quantisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Compressed {
    /// A code of [`dynamic_table`] for each scale.
    pub codes: Vec<u8>,
    /// One for each 256 scales.
    pub absmax: Vec<f32>,
    /// The mean of all scales, taken off before and added after.
    pub offset: f32,
}

/// Scales in a block of the second level.
pub const SECOND_BLOCK: usize = 256;

/// Quantises scales to eight bits.
pub fn compress(scales: &[f32]) -> Compressed {
    let offset = mean(scales);
    let table = dynamic_table();
    let (mut codes, mut absmax) = (Vec::with_capacity(scales.len()), Vec::new());
    for part in scales.chunks(SECOND_BLOCK) {
        let centred: Vec<f32> = part.iter().map(|scale| scale - offset).collect();
        let largest = centred.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        absmax.push(largest);
        codes.extend(
            centred.iter().map(|value| nearest(&table, if largest > 0.0 { value / largest } else { 0.0 })),
        );
    }
    Compressed { codes, absmax, offset }
}

/// The scales that [`compress`] stands for.
pub fn decompress(compressed: &Compressed) -> Vec<f32> {
    let table = dynamic_table();
    let scale = |(i, code): (usize, &u8)| {
        table[usize::from(*code)] * compressed.absmax[i / SECOND_BLOCK] + compressed.offset
    };
    compressed.codes.iter().enumerate().map(scale).collect()
}

/// Steps of the grid between -1 and 1 that bitsandbytes looks codes up on.
const GRID: f32 = 65535.0 / 2.0;

/// The nearest entry of an ascending table; of two as near the lower. As bitsandbytes, which has a table of 65536
/// answers, it takes `value` to the nearest point of a grid first: that matters where two entries are almost as near.
fn nearest(table: &[f32; 256], value: f32) -> u8 {
    let value = f64::from(((value + 1.0) * GRID).round()) / f64::from(GRID) - 1.0;
    let entry = |i: usize| f64::from(table[i]);
    let below = table.partition_point(|entry| f64::from(*entry) <= value).saturating_sub(1);
    let above = (below + 1).min(255);
    (if (entry(above) - value).abs() < (value - entry(below)).abs() { above } else { below }) as u8
}

/// The mean with torch's order of additions (`SumKernel.cpp`: vectors of eight lanes, four at a time, in a cascade of
/// four levels): another order gives another last bit, and other codes where a scale is near a boundary.
fn mean(values: &[f32]) -> f32 {
    const LANES: usize = 8;
    const ROWS: usize = 4;
    const LEVELS: usize = 4;
    let add =
        |sum: &mut [f32], other: &[f32]| sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
    let (rows, rest) = values.as_chunks::<{ LANES * ROWS }>();
    let power = (rows.len().max(1).next_power_of_two().ilog2() as usize / LEVELS).max(4);
    let mut cascade = [[0.0f32; LANES * ROWS]; LEVELS];
    for (i, row) in rows.iter().enumerate() {
        add(&mut cascade[0], row);
        let done = i + 1;
        // a level is full after 2^power of the one below
        for level in 1..LEVELS {
            if done % (1 << (power * level)) != 0 {
                break;
            }
            let below = std::mem::replace(&mut cascade[level - 1], [0.0; LANES * ROWS]);
            add(&mut cascade[level], &below);
        }
    }
    let [mut sum, others @ ..] = cascade;
    others.iter().for_each(|level| add(&mut sum, level));
    let (lanes, tail) = rest.as_chunks::<LANES>();
    let (first, others) = sum.split_at_mut(LANES);
    lanes.iter().for_each(|vector| add(first, vector));
    others.chunks(LANES).for_each(|vector| add(first, vector));
    let total = tail.iter().chain(first.iter()).fold(0.0f32, |sum, value| sum + value);
    total / values.len().max(1) as f32
}

/// bitsandbytes' signed dynamic map: seven decades, the fraction the finer the larger the value (Dettmers 2015, arXiv
/// 1511.04561).
pub fn dynamic_table() -> [f32; 256] {
    const DECADES: i32 = 7;
    let mut table = vec![0.0f32, 1.0];
    for decade in 0..DECADES {
        let steps = 1usize << decade;
        // torch.linspace: from both ends to the middle, with fused multiplication and addition
        let step = (1.0f32 - 0.1) / steps as f32;
        let boundary = |i: usize| match i < steps.div_ceil(2) {
            true => step.mul_add(i as f32, 0.1),
            false => (-step).mul_add((steps - i) as f32, 1.0),
        };
        let power = 10f64.powi(decade - (DECADES - 1)) as f32;
        for i in 0..steps {
            let mean = (boundary(i) + boundary(i + 1)) / 2.0;
            table.extend([power * mean, -power * mean]);
        }
    }
    table.sort_by(f32::total_cmp);
    std::array::from_fn(|i| table[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_come_back_as_they_are() {
        for levels in [Levels::Nf4, Levels::Fp4, Levels::Int4] {
            let table = levels.table();
            let values: Vec<f32> =
                table.iter().filter(|level| level.abs() <= 1.0).map(|level| level * 3.0).collect();
            let quantised = quantise(&values, levels, 64);
            assert_eq!(quantised.absmax, [3.0]);
            let back: Vec<f32> = (0..values.len()).map(|i| table[code(&quantised.codes, i)] * 3.0).collect();
            assert_eq!(back, values, "{levels:?}");
        }
    }

    #[test]
    fn zeros_and_midpoints_and_tails() {
        let zeros = quantise(&[0.0; 67], Levels::Nf4, 64);
        assert_eq!((zeros.codes.len(), zeros.absmax[0]), (34, 0.0));
        assert!(zeros.codes.iter().all(|byte| *byte == 0x77));
        let midpoint = (NF4[8] + NF4[9]) / 2.0;
        assert_eq!(quantise(&[1.0, midpoint], Levels::Nf4, 64).codes, [0xf8]);
    }
}
