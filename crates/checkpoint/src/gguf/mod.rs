//! GGUF, llama.cpp's file format (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>), for LLaMA.
//!
//! Everything in a file is used, known not to matter, or refused by name: keys in [`keys`], tensors in [`names`],
//! element types in [`blocks`], pre-tokenizers in [`pre_tokenizer`].

mod blocks;
mod config;
mod header;
mod keys;
mod names;
mod pre_tokenizer;
mod rope;
mod sentence_piece;
mod split;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use header::GgufValue;
pub use split::{gguf_parts, only_gguf_model};

use self::header::{GgufFile, RawTensor};
use self::keys::Verdict;
use self::names::Use;
use crate::{CheckpointError, TensorInfo, TensorSource};

/// A LLaMA checkpoint in a GGUF file or the parts of one, with the Hub's names and layout.
pub struct Gguf {
    files: Vec<GgufFile>,
    metadata: BTreeMap<String, GgufValue>,
    tensors: BTreeMap<String, Entry>,
    /// Divisors of the rotary frequencies, by the names of their tensors.
    divisors: BTreeMap<String, Vec<f64>>,
    warnings: Vec<String>,
}

struct Entry {
    info: TensorInfo,
    /// The file's place.
    file: usize,
    start: usize,
    size: usize,
    /// For query and key rows: heads whose rows llama.cpp permuted.
    heads: Option<usize>,
}

impl Gguf {
    /// Opens the file, and the other parts where it is one of several.
    ///
    /// # Errors
    /// Where it is truncated, of another version, of another architecture than LLaMA, or has a key, a tensor or a type
    /// that would change the numbers and is not implemented.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let mut files = split::open_parts(path)?;
        let metadata = split::metadata(&mut files);
        check_architecture(path, &metadata)?;
        let warnings = check_keys(path, &metadata)?;
        let mut gguf =
            Self { files, metadata, tensors: BTreeMap::new(), divisors: BTreeMap::new(), warnings };
        for file in 0..gguf.files.len() {
            for tensor in std::mem::take(&mut gguf.files[file].tensors) {
                gguf.add(file, tensor)?;
            }
        }
        gguf.permuted()?;
        Ok(gguf)
    }

    fn add(&mut self, file: usize, tensor: RawTensor) -> Result<(), CheckpointError> {
        let held = &self.files[file];
        let refuse = |message: String| Err(CheckpointError::new(&held.path, message));
        let RawTensor { name, shape, kind, offset } = tensor;
        let dtype = match blocks::dtype(kind) {
            Ok(dtype) => dtype,
            Err(message) => return refuse(format!("tensor `{name}` {message}")),
        };
        let Some(size) = blocks::byte_size(&shape, dtype) else {
            return refuse(format!("tensor `{name}` of type {dtype:?} cannot have the shape {shape:?}"));
        };
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if !offset.is_multiple_of(held.alignment) {
            return refuse(format!("tensor `{name}` does not begin at a multiple of {}", held.alignment));
        }
        let start = offset.saturating_add(held.data);
        if start.checked_add(size).is_none_or(|end| end > held.bytes.len()) {
            let length = held.bytes.len();
            return refuse(format!(
                "tensor `{name}` ends beyond the file's {length} bytes: truncated; get the file again"
            ));
        }
        match names::tensor(&name) {
            Some(Use::Nothing) => {}
            Some(Use::Divisors) => {
                let values = blocks::values(&held.bytes[start..start + size], dtype);
                if values.iter().any(|value| !value.is_finite() || *value <= 0.0) {
                    return refuse(format!("tensor `{name}` has a value that is no divisor of a frequency"));
                }
                let values = values.into_iter().map(f64::from).collect();
                if self.divisors.insert(name.clone(), values).is_some() {
                    return refuse(format!("tensor `{name}` is there twice"));
                }
            }
            Some(Use::Parameter(hub)) => {
                let entry = Entry { info: TensorInfo { shape, dtype }, file, start, size, heads: None };
                if self.tensors.insert(hub, entry).is_some() {
                    return refuse(format!("tensor `{name}` is there twice"));
                }
            }
            None => {
                return refuse(format!(
                    "tensor `{name}` is none that LLaMA has; the network in this file is another, and cannot be built"
                ));
            }
        }
        Ok(())
    }

    /// Notes which rows llama.cpp permuted, when all tensors are known.
    fn permuted(&mut self) -> Result<(), CheckpointError> {
        let queries = self.integer("llama.attention.head_count");
        let keys = self.integer("llama.attention.head_count_kv");
        let layers = |heads: Result<Option<usize>, _>| heads.ok().flatten();
        // where the number differs from layer to layer, `config` refuses
        let queries = layers(queries).or_else(|| self.first("llama.attention.head_count"));
        let keys = layers(keys).or_else(|| self.first("llama.attention.head_count_kv")).or(queries);
        let mut wrong = None;
        for (name, entry) in &mut self.tensors {
            let heads = match name.rsplit_once(".self_attn.").and_then(|(_, rest)| rest.split_once('.')) {
                Some(("q_proj", _)) => queries,
                Some(("k_proj", _)) => keys,
                _ => continue,
            };
            let (heads, rows) = (heads.unwrap_or(0), entry.info.shape.first().copied().unwrap_or(0));
            if heads == 0 || !rows.is_multiple_of(heads.saturating_mul(2)) {
                wrong = Some(format!(
                    "tensor `{name}`: {rows} rows are not {heads} heads (`llama.attention.head_count`)"
                ));
            }
            entry.heads = Some(heads);
        }
        wrong.map_or(Ok(()), |message| Err(self.refuse(&message)))
    }

    /// The first of a list of numbers, one for each layer.
    fn first(&self, key: &str) -> Option<usize> {
        match self.get(key) {
            Some(GgufValue::Integers(values)) => usize::try_from(*values.first()?).ok(),
            _ => None,
        }
    }

    /// A metadata value.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.metadata.get(key)
    }

    /// The files, in the order of the parts.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }

    /// What a reader of the numbers should know of the file; a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.clone();
        warnings.extend(self.pre_tokenizer_warning());
        warnings.extend(self.window_warning());
        warnings
    }

    fn path(&self) -> &Path {
        self.files.first().map_or(Path::new(""), |file| &file.path)
    }

    fn refuse(&self, message: &str) -> CheckpointError {
        CheckpointError::new(self.path(), message)
    }
}

fn check_architecture(path: &Path, metadata: &BTreeMap<String, GgufValue>) -> Result<(), CheckpointError> {
    match metadata.get("general.architecture") {
        Some(GgufValue::String(architecture)) if architecture == "llama" => Ok(()),
        Some(GgufValue::String(other)) => Err(CheckpointError::new(
            path,
            format!("is a GGUF file of the architecture `{other}`; only `llama` can be read"),
        )),
        _ => Err(CheckpointError::new(path, "the metadata lacks `general.architecture`")),
    }
}

/// Refuses the first key that would change the numbers; gives what is to be said of the others.
fn check_keys(path: &Path, metadata: &BTreeMap<String, GgufValue>) -> Result<Vec<String>, CheckpointError> {
    let mut unknown = Vec::new();
    for (key, value) in metadata {
        match keys::verdict(key, value) {
            Verdict::Fine => {}
            Verdict::Unknown => unknown.push(format!("`{key}`")),
            Verdict::Refused(message) => return Err(CheckpointError::new(path, message)),
        }
    }
    let file = path.display();
    Ok(match unknown.is_empty() {
        true => Vec::new(),
        false => vec![format!("{file}: keys of the metadata that nobody here reads: {}", unknown.join(", "))],
    })
}

/// llama.cpp interleaves the two halves of each head's rows; this puts them back.
fn unpermute(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (head, columns) = (rows / heads, values.len() / rows.max(1));
    let mut out = Vec::with_capacity(values.len());
    for row in 0..rows {
        let (start, within) = (row / head * head, row % head);
        let from = start + if within < head / 2 { 2 * within } else { 2 * (within - head / 2) + 1 };
        out.extend_from_slice(&values[from * columns..(from + 1) * columns]);
    }
    out
}

impl TensorSource for Gguf {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|entry| entry.info.clone())
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let entry =
            self.tensors.get(name).ok_or_else(|| self.refuse(&format!("there is no tensor `{name}`")))?;
        let bytes = &self.files[entry.file].bytes[entry.start..entry.start + entry.size];
        let values = blocks::values(bytes, entry.info.dtype);
        Ok(match (entry.heads, entry.info.shape.first()) {
            (Some(heads), Some(rows)) => unpermute(&values, *rows, heads),
            _ => values,
        })
    }

    fn describe(&self) -> String {
        self.path().display().to_string()
    }
}

#[cfg(test)]
mod tests;
