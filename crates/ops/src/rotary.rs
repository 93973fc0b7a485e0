use std::borrow::Cow;

use burn::tensor::{Device, Tensor, TensorData};

use crate::cast_like;

/// How rotary frequencies are changed to reach beyond the length a model was trained on, as `rope_scaling`
/// in a Hub `config.json` says. The numbers are those of `transformers` (`modeling_rope_utils.py`).
#[derive(Clone, Debug, PartialEq)]
pub enum RotaryScaling {
    /// Frequencies as trained.
    None,
    /// Positions divided by `factor` (position interpolation, Chen et al. 2023, arXiv 2306.15595).
    Linear {
        /// New length over the trained length.
        factor: f64,
    },
    /// A base that grows with the length of a text beyond the trained length ("dynamic NTK").
    Dynamic {
        /// How fast it grows.
        factor: f64,
        /// The trained length, in tokens.
        original_length: f64,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071): low frequencies divided by `factor`, high ones kept, a ramp between.
    Yarn {
        /// Divisor of the low frequencies.
        factor: f64,
        /// The trained length, in tokens.
        original_length: f64,
        /// Turns over the trained length above which a frequency is a high one.
        beta_fast: f64,
        /// Turns below which it is a low one.
        beta_slow: f64,
        /// What cosine and sine are multiplied by.
        attention_factor: f64,
        /// Whether the ramp begins and ends at whole dimensions.
        truncate: bool,
    },
    /// LongRoPE (Ding et al. 2024, arXiv 2402.13753): a divisor for each frequency.
    LongRope {
        /// Divisors for texts up to the trained length, `head / 2` of them.
        short: Vec<f64>,
        /// Divisors for longer texts.
        long: Vec<f64>,
        /// The trained length, in tokens.
        original_length: f64,
        /// What cosine and sine are multiplied by.
        attention_factor: f64,
    },
    /// Llama 3.1's: low frequencies divided by `factor`, high ones kept, the band between blended.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_length / low` are low frequencies.
        low_frequency_factor: f64,
        /// Wavelengths below `original_length / high` are high frequencies.
        high_frequency_factor: f64,
        /// The length the model was first trained on, in tokens.
        original_length: f64,
    },
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in the Hub's layout: the first half of a
/// head's dimensions is paired with the second ("rotate half").
#[derive(Clone, Debug)]
pub struct Rotary {
    head: usize,
    theta: f64,
    scaling: RotaryScaling,
    /// What all positions are divided by.
    interpolation: f64,
    /// Of texts up to the trained length.
    inverse_frequencies: Vec<f64>,
}

impl Rotary {
    /// For heads of `head` dimensions and base frequency `theta`.
    pub fn new(head: usize, theta: f64, scaling: &RotaryScaling) -> Self {
        let scaling = scaling.clone();
        Self {
            head,
            theta,
            interpolation: 1.0,
            inverse_frequencies: scaling.frequencies(head, theta, 0),
            scaling,
        }
    }

    /// Divides all positions by `factor` (position interpolation, Chen et al. 2023, arXiv 2306.15595).
    pub fn interpolate(&mut self, factor: f64) {
        self.interpolation *= factor;
        self.inverse_frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
    }

    /// Angles a token, in radians, by pairs of dimensions, for a text of `length` tokens: `head / 2` of them.
    pub fn inverse_frequencies(&self, length: usize) -> Cow<'_, [f64]> {
        match self.scaling.original_length() {
            Some(original) if length as f64 > original => {
                let longer = self.scaling.frequencies(self.head, self.theta, length);
                longer.into_iter().map(|frequency| frequency / self.interpolation).collect()
            }
            _ => Cow::Borrowed(&self.inverse_frequencies),
        }
    }

    /// What cosine and sine are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        match self.scaling {
            RotaryScaling::Yarn { attention_factor, .. }
            | RotaryScaling::LongRope { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// Cosine and sine for `length` positions from `start` on, each `[1, 1, length, head]`.
    pub fn table(&self, start: usize, length: usize, device: &Device) -> (Tensor<4>, Tensor<4>) {
        let frequencies = self.inverse_frequencies(start + length);
        let (half, factor) = (frequencies.len(), self.attention_factor() as f32);
        let mut cosine = Vec::with_capacity(length * half * 2);
        let mut sine = Vec::with_capacity(length * half * 2);
        for position in start..start + length {
            for i in 0..half * 2 {
                // `transformers` multiplies in f32: the same angle for the same position
                let angle = frequencies[i % half] as f32 * position as f32;
                cosine.push(angle.cos() * factor);
                sine.push(angle.sin() * factor);
            }
        }
        let shape = [1, 1, length, half * 2];
        let tensor = |values| Tensor::from_data(TensorData::new(values, shape), device);
        (tensor(cosine), tensor(sine))
    }

    /// Rotates `input` `[batch, heads, length, head]` by a [`table`](Self::table) of the same length.
    pub fn apply(input: Tensor<4>, (cosine, sine): &(Tensor<4>, Tensor<4>)) -> Tensor<4> {
        let [batch, heads, length, head] = input.dims();
        let (cosine, sine) = (cast_like(cosine.clone(), &input), cast_like(sine.clone(), &input));
        let first = input.clone().slice([0..batch, 0..heads, 0..length, 0..head / 2]);
        let second = input.clone().slice([0..batch, 0..heads, 0..length, head / 2..head]);
        let rotated = Tensor::cat(vec![second.neg(), first], 3);
        input * cosine + rotated * sine
    }
}

impl RotaryScaling {
    /// The length beyond which frequencies depend on the text's length.
    fn original_length(&self) -> Option<f64> {
        match self {
            Self::Dynamic { original_length, .. } | Self::LongRope { original_length, .. } => {
                Some(*original_length)
            }
            _ => None,
        }
    }

    /// Inverse frequencies of heads of `head` dimensions for a text of `length` tokens.
    fn frequencies(&self, head: usize, theta: f64, length: usize) -> Vec<f64> {
        let dimensions = head as f64;
        let plain = |theta: f64| (0..head / 2).map(move |i| theta.powf(-2.0 * i as f64 / dimensions));
        match self {
            Self::None => plain(theta).collect(),
            Self::Linear { factor } => plain(theta).map(|frequency| frequency / factor).collect(),
            Self::Dynamic { factor, original_length } => {
                let growth =
                    (factor * (length as f64).max(*original_length) / original_length) - (factor - 1.0);
                plain(theta * growth.powf(dimensions / (dimensions - 2.0))).collect()
            }
            Self::LongRope { short, long, original_length, .. } => {
                let divisors = if length as f64 > *original_length { long } else { short };
                plain(theta).zip(divisors).map(|(frequency, divisor)| frequency / divisor).collect()
            }
            Self::Yarn { factor, original_length, beta_fast, beta_slow, truncate, .. } => {
                // the dimension that turns so many times over the trained length
                let dimension = |turns: f64| {
                    let turned = original_length / (turns * 2.0 * std::f64::consts::PI);
                    dimensions * turned.ln() / (2.0 * theta.ln())
                };
                let (low, high) = match truncate {
                    true => (dimension(*beta_fast).floor(), dimension(*beta_slow).ceil()),
                    false => (dimension(*beta_fast), dimension(*beta_slow)),
                };
                let (low, high) = (low.max(0.0), high.min(dimensions - 1.0));
                // as `transformers`: a step where the ramp would have no width
                let width = if low == high { 0.001 } else { high - low };
                let blend = |(i, frequency): (usize, f64)| {
                    let divided = ((i as f64 - low) / width).clamp(0.0, 1.0);
                    frequency / factor * divided + frequency * (1.0 - divided)
                };
                plain(theta).enumerate().map(blend).collect()
            }
            Self::Llama3 {
                factor,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_length,
            } => {
                let blend = |frequency: f64| {
                    let wavelength = 2.0 * std::f64::consts::PI / frequency;
                    if wavelength < original_length / high {
                        frequency
                    } else if wavelength > original_length / low {
                        frequency / factor
                    } else {
                        let smooth = (original_length / wavelength - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                };
                plain(theta).map(blend).collect()
            }
        }
    }
}
