//! The tokenizer inside a GGUF file, by way of the Hub's `tokenizer.json`.

use std::collections::HashMap;
use std::str::FromStr;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::{CheckpointError, Gguf, GgufValue};

/// Llama 3's way of cutting a text into words.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Token types in GGUF.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

impl Gguf {
    /// The tokenizer in the file.
    ///
    /// # Errors
    /// Where there is none, or it is of a kind that is not known.
    pub fn tokenizer(&self) -> Result<Tokenizer, CheckpointError> {
        let kind = match self.get("tokenizer.ggml.model") {
            Some(GgufValue::String(kind)) => kind.as_str(),
            _ => return Err(self.refuse("the metadata lacks a tokenizer (`tokenizer.ggml.model`)")),
        };
        let tokens = self.strings("tokenizer.ggml.tokens")?;
        let mut definition = match kind {
            "gpt2" => self.byte_level(&tokens)?,
            "llama" => self.sentence_piece(&tokens)?,
            other => {
                return Err(
                    self.refuse(&format!("tokenizer `{other}` is not supported; there are gpt2 and llama"))
                );
            }
        };
        definition["version"] = "1.0".into();
        definition["truncation"] = Value::Null;
        definition["padding"] = Value::Null;
        definition["added_tokens"] = self.added(&tokens)?;
        definition["post_processor"] = self.post_processor(&tokens, kind);
        Tokenizer::from_str(&definition.to_string())
            .map_err(|error| self.refuse(&format!("the tokenizer in the metadata is not one: {error}")))
    }

    fn refuse(&self, message: &str) -> CheckpointError {
        CheckpointError::new(self.path(), message)
    }

    fn array(&self, key: &str) -> Result<&[GgufValue], CheckpointError> {
        match self.get(key) {
            Some(GgufValue::Array(values)) => Ok(values),
            _ => Err(self.refuse(&format!("the metadata lacks the list `{key}`"))),
        }
    }

    fn strings(&self, key: &str) -> Result<Vec<&str>, CheckpointError> {
        let mut texts = Vec::new();
        for value in self.array(key)? {
            match value {
                GgufValue::String(text) => texts.push(text.as_str()),
                _ => return Err(self.refuse(&format!("`{key}` is no list of strings"))),
            }
        }
        Ok(texts)
    }

    fn added(&self, tokens: &[&str]) -> Result<Value, CheckpointError> {
        let types = self.array("tokenizer.ggml.token_type")?;
        let added = tokens.iter().zip(types).enumerate().filter_map(|(id, (token, kind))| {
            let special = match kind {
                GgufValue::Integer(CONTROL) => true,
                GgufValue::Integer(USER_DEFINED) => false,
                _ => return None,
            };
            Some(json!({
                "id": id, "content": token, "special": special,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }))
        });
        Ok(added.collect())
    }

    fn post_processor(&self, tokens: &[&str], kind: &str) -> Value {
        let adds = match self.get("tokenizer.ggml.add_bos_token") {
            Some(GgufValue::Bool(adds)) => *adds,
            _ => kind == "llama",
        };
        let id = match self.get("tokenizer.ggml.bos_token_id") {
            Some(GgufValue::Integer(id)) if adds => *id as usize,
            _ => return Value::Null,
        };
        let Some(token) = tokens.get(id) else { return Value::Null };
        let mut special = serde_json::Map::new();
        special.insert((*token).to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }));
        json!({
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": token, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [
                { "SpecialToken": { "id": token, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": token, "type_id": 1 } }, { "Sequence": { "id": "B", "type_id": 1 } },
            ],
            "special_tokens": special,
        })
    }

    /// Byte-level BPE, as GPT-2 has it.
    fn byte_level(&self, tokens: &[&str]) -> Result<Value, CheckpointError> {
        let level = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
        let pre = match self.get("tokenizer.ggml.pre") {
            Some(GgufValue::String(pre)) => pre.as_str(),
            _ => "default",
        };
        let split = match pre {
            "smollm" => json!({
                "type": "Sequence",
                "pretokenizers": [{ "type": "Digits", "individual_digits": true }, level(true)],
            }),
            "llama-bpe" | "llama3" => json!({
                "type": "Sequence",
                "pretokenizers": [
                    { "type": "Split", "pattern": { "Regex": LLAMA3 }, "behavior": "Isolated", "invert": false },
                    level(false),
                ],
            }),
            "default" | "gpt-2" => level(true),
            other => {
                let message = format!(
                    "the tokenizer's `{other}` pre-tokenizer is not known; there are smollm, llama-bpe, gpt-2"
                );
                return Err(self.refuse(&message));
            }
        };
        Ok(json!({
            "normalizer": null,
            "pre_tokenizer": split,
            "decoder": level(true),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
                "vocab": vocabulary(tokens),
                "merges": self.strings("tokenizer.ggml.merges")?,
            },
        }))
    }

    /// SentencePiece's BPE with a fall-back to bytes. The file has a score for each token in place of a list of
    /// merges: the token with the higher score is made first.
    fn sentence_piece(&self, tokens: &[&str]) -> Result<Value, CheckpointError> {
        let score = |value: &GgufValue| match value {
            GgufValue::Float(score) => *score,
            _ => 0.0,
        };
        let scores: Vec<f64> = self.array("tokenizer.ggml.scores")?.iter().map(score).collect();
        let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
        let mut merges: Vec<(f64, &str, &str)> = Vec::new();
        for (token, score) in tokens.iter().zip(scores) {
            let mut own: Vec<(usize, usize, &str, &str)> = Vec::new();
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) {
                    own.push((*l, *r, left, right));
                }
            }
            own.sort_unstable();
            merges.extend(own.into_iter().map(|(.., left, right)| (score, left, right)));
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0));
        let merges: Vec<Value> = merges.into_iter().map(|(_, left, right)| json!([left, right])).collect();
        Ok(json!({
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    { "type": "Prepend", "prepend": "▁" },
                    { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
                ],
            },
            "pre_tokenizer": null,
            "decoder": null,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                "vocab": vocabulary(tokens),
                "merges": merges,
            },
        }))
    }
}

fn vocabulary(tokens: &[&str]) -> Value {
    tokens
        .iter()
        .enumerate()
        .map(|(id, token)| ((*token).to_owned(), Value::from(id)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
