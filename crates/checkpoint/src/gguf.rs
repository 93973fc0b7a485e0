//! GGUF, llama.cpp's file format (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>), for LLaMA.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;
use memmap2::Mmap;
use serde_json::{Value, json};

use crate::{CheckpointError, Dtype, TensorInfo, TensorSource, floats, map};

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// Any integer.
    Integer(i64),
    /// Any float.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    String(String),
    /// Values of one type.
    Array(Vec<Self>),
}

/// A LLaMA checkpoint in a GGUF file, with the Hub's names and layout.
pub struct Gguf {
    path: PathBuf,
    bytes: Mmap,
    metadata: BTreeMap<String, GgufValue>,
    tensors: BTreeMap<String, Entry>,
}

struct Entry {
    info: TensorInfo,
    start: usize,
    /// For query and key rows: heads whose rows llama.cpp permuted.
    heads: Option<usize>,
}

/// Values in a block of a quantised type.
const BLOCK: usize = 32;

impl Gguf {
    /// Opens the file.
    ///
    /// # Errors
    /// Where it is truncated, of another version, of another architecture than LLaMA, or has tensors of a type
    /// that cannot be read.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let bytes = map(path)?;
        let mut reader = Reader { path, bytes: &bytes, at: 0 };
        if reader.take(4)? != b"GGUF" {
            return Err(CheckpointError::new(path, "is no GGUF file: it does not begin with `GGUF`"));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(CheckpointError::new(
                path,
                format!("is GGUF version {version}; versions 2 and 3 can be read"),
            ));
        }
        let (tensor_count, metadata_count) = (reader.u64()?, reader.u64()?);
        let mut metadata = BTreeMap::new();
        for _ in 0..metadata_count {
            let key = reader.string()?;
            let kind = reader.u32()?;
            metadata.insert(key, reader.value(kind, 0)?);
        }
        check_architecture(path, &metadata)?;
        let mut raw = Vec::new();
        for _ in 0..tensor_count {
            raw.push(reader.tensor()?);
        }
        let alignment = match metadata.get("general.alignment") {
            Some(GgufValue::Integer(alignment)) if *alignment > 0 => *alignment as usize,
            _ => 32,
        };
        let data = reader.at.next_multiple_of(alignment);
        let mut gguf = Self { path: path.to_owned(), bytes, metadata, tensors: BTreeMap::new() };
        for tensor in raw {
            gguf.add(tensor, data)?;
        }
        Ok(gguf)
    }

    fn add(&mut self, tensor: RawTensor, data: usize) -> Result<(), CheckpointError> {
        let RawTensor { name, shape, kind, offset } = tensor;
        let dtype = dtype(kind).ok_or_else(|| {
            CheckpointError::new(
                &self.path,
                format!("tensor `{name}` has GGML type {kind}; F32, F16, Q8_0, Q4_0 and Q4_1 can be read"),
            )
        })?;
        let elements = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
        let size = elements.and_then(|elements| byte_size(elements, dtype)).ok_or_else(|| {
            CheckpointError::new(&self.path, format!("tensor `{name}` cannot have the shape {shape:?}"))
        })?;
        let start = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(data));
        let end = start.and_then(|start| start.checked_add(size)).filter(|end| *end <= self.bytes.len());
        let (Some(start), Some(_)) = (start, end) else {
            let length = self.bytes.len();
            return Err(CheckpointError::new(
                &self.path,
                format!(
                    "tensor `{name}` ends beyond the file's {length} bytes: truncated; get the file again"
                ),
            ));
        };
        let Some(hub) = hub_name(&name) else { return Ok(()) };
        let heads = match hub.rsplit_once(".self_attn.").map(|(_, rest)| rest) {
            Some("q_proj.weight") => Some(self.integer("llama.attention.head_count")?),
            Some("k_proj.weight") => Some(self.key_heads()?),
            _ => None,
        };
        if let (Some(heads), Some(rows)) = (heads, shape.first())
            && (heads == 0 || rows % (2 * heads) != 0)
        {
            return Err(CheckpointError::new(
                &self.path,
                format!("tensor `{name}`: {rows} rows are not {heads} heads"),
            ));
        }
        self.tensors.insert(hub, Entry { info: TensorInfo { shape, dtype }, start, heads });
        Ok(())
    }

    /// A metadata value.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.metadata.get(key)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn integer(&self, key: &str) -> Result<usize, CheckpointError> {
        match self.get(key) {
            Some(GgufValue::Integer(value)) if *value >= 0 => Ok(*value as usize),
            _ => Err(CheckpointError::new(&self.path, format!("the metadata lacks the number `{key}`"))),
        }
    }

    fn float(&self, key: &str) -> Option<f64> {
        match self.get(key) {
            Some(GgufValue::Float(value)) => Some(*value),
            _ => None,
        }
    }

    fn key_heads(&self) -> Result<usize, CheckpointError> {
        self.integer("llama.attention.head_count_kv").or_else(|_| self.integer("llama.attention.head_count"))
    }

    /// The metadata in the form of a Hub `config.json`.
    ///
    /// # Errors
    /// Where a number is missing.
    pub fn config(&self) -> Result<Value, CheckpointError> {
        let tied = !self.tensors.contains_key("lm_head.weight");
        let vocabulary = self.info("model.embed_tokens.weight").and_then(|info| info.shape.first().copied());
        let mut config = json!({
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": self.integer("llama.embedding_length")?,
            "intermediate_size": self.integer("llama.feed_forward_length")?,
            "num_hidden_layers": self.integer("llama.block_count")?,
            "num_attention_heads": self.integer("llama.attention.head_count")?,
            "num_key_value_heads": self.key_heads()?,
            "vocab_size": vocabulary.map_or_else(|| self.integer("llama.vocab_size"), Ok)?,
            "max_position_embeddings": self.integer("llama.context_length")?,
            "rms_norm_eps": self.float("llama.attention.layer_norm_rms_epsilon").unwrap_or(1e-5),
            "rope_theta": self.float("llama.rope.freq_base").unwrap_or(10_000.0),
            "tie_word_embeddings": tied,
            "hidden_act": "silu",
        });
        if let Ok(head) = self.integer("llama.attention.key_length") {
            config["head_dim"] = head.into();
        }
        if let (Some(GgufValue::String(kind)), Some(factor)) =
            (self.get("llama.rope.scaling.type"), self.float("llama.rope.scaling.factor"))
            && kind == "linear"
        {
            config["rope_scaling"] = json!({ "rope_type": "linear", "factor": factor });
        }
        for (ours, theirs) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding")] {
            if let Ok(id) = self.integer(&format!("tokenizer.ggml.{theirs}_token_id")) {
                config[format!("{ours}_token_id")] = id.into();
            }
        }
        Ok(config)
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

fn dtype(kind: u32) -> Option<Dtype> {
    Some(match kind {
        0 => Dtype::F32,
        1 => Dtype::F16,
        2 => Dtype::Q4_0,
        3 => Dtype::Q4_1,
        8 => Dtype::Q8_0,
        _ => return None,
    })
}

/// Bytes of a block of [`BLOCK`] values, or of one value of a plain type.
fn unit(dtype: Dtype) -> (usize, usize) {
    match dtype {
        Dtype::F32 => (1, 4),
        Dtype::F16 | Dtype::BF16 => (1, 2),
        Dtype::I64 => (1, 8),
        Dtype::Q4_0 => (BLOCK, 18),
        Dtype::Q4_1 => (BLOCK, 20),
        Dtype::Q8_0 => (BLOCK, 34),
    }
}

fn byte_size(elements: usize, dtype: Dtype) -> Option<usize> {
    let (values, bytes) = unit(dtype);
    elements.is_multiple_of(values).then_some(elements / values)?.checked_mul(bytes)
}

/// The Hub's name of a LLaMA tensor; none for what the network has no use for (precomputed frequencies).
fn hub_name(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, end) = rest.rsplit_once('.')?;
    let part = match part {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{part}.{end}"))
}

/// Values of blocks, each `[scale]` or `[scale, minimum]` in f16 and then the codes; four-bit codes hold the
/// block's first half in their low nibbles and the second in the high ones.
fn dequantise(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    let (_, size) = unit(dtype);
    let mut values = Vec::with_capacity(bytes.len() / size * BLOCK);
    let half = |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    for block in bytes.chunks_exact(size) {
        let scale = half(block, 0);
        match dtype {
            Dtype::Q8_0 => values.extend(block[2..].iter().map(|code| scale * f32::from(*code as i8))),
            Dtype::Q4_0 => {
                let value = |code: u8| scale * (f32::from(code) - 8.0);
                values.extend(block[2..].iter().map(|code| value(code & 15)));
                values.extend(block[2..].iter().map(|code| value(code >> 4)));
            }
            _ => {
                let minimum = half(block, 2);
                let value = |code: u8| scale * f32::from(code) + minimum;
                values.extend(block[4..].iter().map(|code| value(code & 15)));
                values.extend(block[4..].iter().map(|code| value(code >> 4)));
            }
        }
    }
    values
}

/// llama.cpp interleaves the two halves of each head's rows; this puts them back.
fn unpermute(values: &[f32], rows: usize, columns: usize, heads: usize) -> Vec<f32> {
    let head = rows / heads;
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
        let missing = || CheckpointError::new(&self.path, format!("there is no tensor `{name}`"));
        let Entry { info, start, heads } = self.tensors.get(name).ok_or_else(missing)?;
        let elements: usize = info.shape.iter().product();
        let size = byte_size(elements, info.dtype).ok_or_else(missing)?;
        let bytes = &self.bytes[*start..start + size];
        let values = floats(bytes, info.dtype).unwrap_or_else(|| dequantise(bytes, info.dtype));
        Ok(match (heads, &info.shape[..]) {
            (Some(heads), [rows, columns]) => unpermute(&values, *rows, *columns, *heads),
            _ => values,
        })
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

struct RawTensor {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

/// Reads the header; every length is checked against the file.
struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], CheckpointError> {
        let taken = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| {
            let length = self.bytes.len();
            CheckpointError::new(
                self.path,
                format!("the header goes on beyond the file's {length} bytes: truncated; get the file again"),
            )
        })?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, CheckpointError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn string(&mut self) -> Result<String, CheckpointError> {
        let length = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<GgufValue, CheckpointError> {
        Ok(match kind {
            0 => GgufValue::Integer(i64::from(self.array::<1>()?[0])),
            1 => GgufValue::Integer(i64::from(i8::from_le_bytes(self.array()?))),
            2 => GgufValue::Integer(i64::from(u16::from_le_bytes(self.array()?))),
            3 => GgufValue::Integer(i64::from(i16::from_le_bytes(self.array()?))),
            4 => GgufValue::Integer(i64::from(self.u32()?)),
            5 => GgufValue::Integer(i64::from(i32::from_le_bytes(self.array()?))),
            6 => GgufValue::Float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => GgufValue::Bool(self.array::<1>()?[0] != 0),
            8 => GgufValue::String(self.string()?),
            9 if depth < 4 => {
                let kind = self.u32()?;
                let count = self.u64()?;
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(kind, depth + 1)?);
                }
                GgufValue::Array(values)
            }
            10 => GgufValue::Integer(self.u64()? as i64),
            11 => GgufValue::Integer(i64::from_le_bytes(self.array()?)),
            12 => GgufValue::Float(f64::from_le_bytes(self.array()?)),
            kind => {
                return Err(CheckpointError::new(
                    self.path,
                    format!("the metadata has a value of unknown type {kind}"),
                ));
            }
        })
    }

    fn tensor(&mut self) -> Result<RawTensor, CheckpointError> {
        let name = self.string()?;
        let dimensions = self.u32()?;
        if dimensions > 4 {
            return Err(CheckpointError::new(
                self.path,
                format!("tensor `{name}` has {dimensions} dimensions"),
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(usize::try_from(self.u64()?).unwrap_or(usize::MAX));
        }
        // GGUF's first dimension is the fastest, the Hub's the slowest
        shape.reverse();
        Ok(RawTensor { name, shape, kind: self.u32()?, offset: self.u64()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_dequantised() {
        let mut q8 = f16::from_f32(0.5).to_le_bytes().to_vec();
        q8.extend((0..32).map(|i| (i as i8 - 16) as u8));
        let values = dequantise(&q8, Dtype::Q8_0);
        assert_eq!((values[0], values[16], values[31]), (-8.0, 0.0, 7.5));

        let mut q4 = f16::from_f32(2.0).to_le_bytes().to_vec();
        q4.extend([0x80; 16]);
        let values = dequantise(&q4, Dtype::Q4_0);
        assert_eq!((values[0], values[16]), (-16.0, 0.0));

        let mut q41 = [f16::from_f32(2.0).to_le_bytes(), f16::from_f32(-1.0).to_le_bytes()].concat();
        q41.extend([0x31; 16]);
        let values = dequantise(&q41, Dtype::Q4_1);
        assert_eq!((values[0], values[31]), (1.0, 5.0));
    }

    #[test]
    fn rows_are_put_back() {
        // one head of four rows: GGUF has rows 0, 2, 1, 3 of the Hub's
        assert_eq!(unpermute(&[0.0, 2.0, 1.0, 3.0], 4, 1, 1), [0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn no_cut_or_changed_file_panics() {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        bytes.extend(string("general.architecture"));
        bytes.extend(8u32.to_le_bytes());
        bytes.extend(string("llama"));
        bytes.extend(string("output_norm.weight"));
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(4u64.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(32) + 16, 0);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Gguf::open(&path).unwrap().read_f32("model.norm.weight").unwrap(), [0.0; 4]);
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(Gguf::open(&path).is_err(), "cut at {length}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            std::fs::write(&path, &changed).unwrap();
            let _ = Gguf::open(&path).map(|gguf| gguf.config().is_ok());
        }
    }
}
