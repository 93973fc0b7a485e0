//! Reads model files: safetensors, GGUF, folders in the Hub's layout, and the Hub's cache.
//!
//! Nothing here knows a network. Files are checked before they are believed: a truncated file, or a header that
//! promises more than the file holds, is an error that says so.

mod gguf;
mod growth;
mod guard;
mod resolve;
mod safetensors;
mod shards;
mod splitting;
mod tokenizer;

use std::path::{Path, PathBuf};

pub use gguf::{Gguf, GgufValue, gguf_parts, only_gguf_model};
pub use guard::guarded;
pub use resolve::{ModelFiles, load_config, load_tokenizer, resolve};
pub use safetensors::{Safetensors, write_safetensors};
pub use tokenizer::{SpecialTokens, Tokenizer};
pub use tokenizers::{EncodeInput, Encoding};

/// Element types in files.
#[expect(non_camel_case_types, reason = "the formats' own names, which messages show")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// bfloat16.
    BF16,
    /// 64-bit float.
    F64,
    /// 64-bit integer.
    I64,
    /// Another type of safetensors: no network reads it.
    Other(::safetensors::Dtype),
    /// Blocks of 32 8-bit values with a 16-bit scale (GGUF, as all that follow).
    Q8_0,
    /// Blocks of 32 4-bit values with a 16-bit scale.
    Q4_0,
    /// Blocks of 32 4-bit values with a 16-bit scale and minimum.
    Q4_1,
    /// Blocks of 32 5-bit values with a 16-bit scale.
    Q5_0,
    /// Blocks of 32 5-bit values with a 16-bit scale and minimum.
    Q5_1,
    /// Blocks of 256 2-bit values, 16 groups of which have 4-bit scales and minima.
    Q2_K,
    /// Blocks of 256 3-bit values, 16 groups of which have 6-bit scales.
    Q3_K,
    /// Blocks of 256 4-bit values, 8 groups of which have 6-bit scales and minima.
    Q4_K,
    /// Blocks of 256 5-bit values, 8 groups of which have 6-bit scales and minima.
    Q5_K,
    /// Blocks of 256 6-bit values, 16 groups of which have 8-bit scales.
    Q6_K,
}

impl Dtype {
    /// Whether its values are floats, plain or in blocks.
    pub fn is_float(self) -> bool {
        !matches!(self, Self::I64 | Self::Other(_))
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Other(other) => write!(f, "{other}"),
            known => write!(f, "{known:?}"),
        }
    }
}

/// A tensor's shape, in the Hub's order (a linear's weight is `[out, in]`), and element type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Shape.
    pub shape: Vec<usize>,
    /// Element type in the file.
    pub dtype: Dtype,
}

/// Tensors by their names on the Hub.
pub trait TensorSource: Send + Sync {
    /// Every name, sorted.
    fn names(&self) -> Vec<String>;
    /// Shape and type of a tensor, if there is one of that name.
    fn info(&self, name: &str) -> Option<TensorInfo>;
    /// A tensor's values, row-major.
    ///
    /// # Errors
    /// Where there is no such tensor, or it holds no floats.
    fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError>;
    /// Whether two tensors have the same values.
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32).
    fn equal(&self, one: &str, other: &str) -> Result<bool, CheckpointError> {
        Ok(self.info(one).map(|info| info.shape) == self.info(other).map(|info| info.shape)
            && self.read_f32(one)? == self.read_f32(other)?)
    }
    /// The file, for messages.
    fn describe(&self) -> String;
}

/// Why a model file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct CheckpointError {
    path: PathBuf,
    message: String,
}

impl CheckpointError {
    pub(crate) fn new(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self { path: path.as_ref().to_owned(), message: message.into() }
    }

    pub(crate) fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::new(path, format!("cannot be read: {error}"))
    }
}

/// Maps a file into memory.
pub(crate) fn map(path: &Path) -> Result<memmap2::Mmap, CheckpointError> {
    let file = std::fs::File::open(path).map_err(|error| CheckpointError::io(path, &error))?;
    // SAFETY: the map is read only; a file that somebody cuts short while it is mapped ends the process, as it
    // does in every program that maps its weights.
    unsafe { memmap2::Mmap::map(&file) }.map_err(|error| CheckpointError::io(path, &error))
}

/// `f32` values of little-endian elements of a plain type.
pub(crate) fn floats(bytes: &[u8], dtype: Dtype) -> Option<Vec<f32>> {
    let halves = |convert: fn([u8; 2]) -> f32| bytes.as_chunks::<2>().0.iter().map(|b| convert(*b)).collect();
    match dtype {
        Dtype::F32 => Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::F64 => Some(bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect()),
        Dtype::F16 => Some(halves(|b| half::f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => Some(halves(|b| half::bf16::from_le_bytes(b).to_f32())),
        _ => None,
    }
}
