//! Writes GGUF files.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::path::{Path, PathBuf};

/// A value of the metadata.
#[derive(Clone)]
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A tensor: its shape in the Hub's order, its type's number and its bytes.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
}

/// A file that is to be written.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) keys: Vec<(String, Value)>,
    pub(crate) tensors: Vec<Tensor>,
}

/// A tensor of `f32` that counts up.
pub(crate) fn counted(name: &str, shape: &[u64]) -> Tensor {
    let values = 0..shape.iter().product::<u64>();
    let bytes = values.flat_map(|n| (n as f32 / 64.0).to_le_bytes()).collect();
    Tensor { name: name.to_owned(), shape: shape.to_vec(), kind: 0, bytes }
}

pub(crate) fn texts(values: &[&str]) -> Value {
    Value::Texts(values.iter().map(|text| (*text).to_owned()).collect())
}

impl File {
    /// A LLaMA of one layer with a byte-level tokenizer.
    pub(crate) fn tiny() -> Self {
        let size = |key: &str, n: u32| (format!("llama.{key}"), Value::U32(n));
        let tokenizer = |key: &str, value: Value| (format!("tokenizer.ggml.{key}"), value);
        let text = |text: &str| Value::Text(text.to_owned());
        Self {
            keys: vec![
                ("general.architecture".to_owned(), text("llama")),
                size("context_length", 64),
                size("embedding_length", 8),
                size("block_count", 1),
                size("feed_forward_length", 16),
                size("attention.head_count", 2),
                size("attention.head_count_kv", 1),
                ("llama.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(1e-5)),
                tokenizer("model", text("gpt2")),
                tokenizer("pre", text("llama-bpe")),
                tokenizer("tokens", texts(&["<s>", "</s>", "a", "b", "ab", "Ġ"])),
                tokenizer("token_type", Value::I32s(vec![3, 3, 1, 1, 1, 1])),
                tokenizer("merges", texts(&["a b"])),
                tokenizer("bos_token_id", Value::U32(0)),
                tokenizer("eos_token_id", Value::U32(1)),
            ],
            tensors: vec![
                counted("token_embd.weight", &[6, 8]),
                counted("output_norm.weight", &[8]),
                counted("output.weight", &[6, 8]),
                counted("blk.0.attn_norm.weight", &[8]),
                counted("blk.0.ffn_norm.weight", &[8]),
                counted("blk.0.attn_q.weight", &[8, 8]),
                counted("blk.0.attn_k.weight", &[4, 8]),
                counted("blk.0.attn_v.weight", &[4, 8]),
                counted("blk.0.attn_output.weight", &[8, 8]),
                counted("blk.0.ffn_gate.weight", &[16, 8]),
                counted("blk.0.ffn_up.weight", &[16, 8]),
                counted("blk.0.ffn_down.weight", &[8, 16]),
            ],
        }
    }

    /// The same file with another value.
    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.keys.retain(|(known, _)| known != key);
        self.keys.push((key.to_owned(), value));
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(known, _)| known != key);
        self
    }

    /// The same file with another tensor, or one more.
    pub(crate) fn tensor(mut self, tensor: Tensor) -> Self {
        self.tensors.retain(|known| known.name != tensor.name);
        self.tensors.push(tensor);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            out.extend(string(key));
            out.extend(encoded(value));
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            out.extend(string(&tensor.name));
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += tensor.bytes.len().next_multiple_of(32) as u64;
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&tensor.bytes);
        }
        out
    }

    pub(crate) fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn list(kind: u32, count: usize, values: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut out = [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &(count as u64).to_le_bytes()].concat();
    values.for_each(|value| out.extend(value));
    out
}

fn encoded(value: &Value) -> Vec<u8> {
    let plain = |kind: u32, bytes: &[u8]| [&kind.to_le_bytes(), bytes].concat();
    match value {
        Value::U32(n) => plain(4, &n.to_le_bytes()),
        Value::F32(n) => plain(6, &n.to_le_bytes()),
        Value::Bool(truth) => plain(7, &[u8::from(*truth)]),
        Value::Text(text) => plain(8, &string(text)),
        Value::Texts(texts) => list(8, texts.len(), texts.iter().map(|text| string(text))),
        Value::I32s(values) => list(5, values.len(), values.iter().map(|n| n.to_le_bytes().to_vec())),
        Value::F32s(values) => list(6, values.len(), values.iter().map(|n| n.to_le_bytes().to_vec())),
    }
}

/// A folder of fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf")
}
