use burn::tensor::{Device, Tensor, TensorData};

use crate::cast_like;

/// How rotary frequencies are changed to reach beyond the length a model was trained on, as `rope_scaling`
/// in a Hub `config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub enum RotaryScaling {
    /// Frequencies as trained.
    None,
    /// Positions divided by `factor` (position interpolation, Chen et al. 2023, arXiv 2306.15595).
    Linear {
        /// New length over the trained length.
        factor: f64,
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
    inverse_frequencies: Vec<f64>,
}

impl Rotary {
    /// For heads of `head` dimensions and base frequency `theta`.
    pub fn new(head: usize, theta: f64, scaling: &RotaryScaling) -> Self {
        let inverse_frequencies =
            (0..head / 2).map(|i| scaled(theta.powf(-2.0 * i as f64 / head as f64), scaling)).collect();
        Self { inverse_frequencies }
    }

    /// Divides all positions by `factor` (position interpolation, Chen et al. 2023, arXiv 2306.15595).
    pub fn interpolate(&mut self, factor: f64) {
        self.inverse_frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
    }

    /// Cosine and sine for `length` positions from `start` on, each `[1, 1, length, head]`.
    pub fn table(&self, start: usize, length: usize, device: &Device) -> (Tensor<4>, Tensor<4>) {
        let half = self.inverse_frequencies.len();
        let mut cosine = Vec::with_capacity(length * half * 2);
        let mut sine = Vec::with_capacity(length * half * 2);
        for position in start..start + length {
            for i in 0..half * 2 {
                // `transformers` multiplies in f32: the same angle for the same position
                let angle = self.inverse_frequencies[i % half] as f32 * position as f32;
                cosine.push(angle.cos());
                sine.push(angle.sin());
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

fn scaled(frequency: f64, scaling: &RotaryScaling) -> f64 {
    match *scaling {
        RotaryScaling::None => frequency,
        RotaryScaling::Linear { factor } => frequency / factor,
        RotaryScaling::Llama3 {
            factor,
            low_frequency_factor: low,
            high_frequency_factor: high,
            original_length,
        } => {
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            if wavelength < original_length / high {
                frequency
            } else if wavelength > original_length / low {
                frequency / factor
            } else {
                let smooth = (original_length / wavelength - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}
