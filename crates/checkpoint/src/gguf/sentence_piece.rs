//! SentencePiece's BPE, which llama.cpp calls `llama`, in the form of the Hub's `tokenizer.json`.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{Gguf, GgufValue};
use crate::CheckpointError;

impl Gguf {
    /// Pieces are merged in the order of their scores; what is no piece falls back to bytes.
    pub(super) fn sentence_piece(&self, tokens: &[String]) -> Result<Value, CheckpointError> {
        let ids: HashMap<&str, usize> =
            tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
        let lacking =
            (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).find(|byte| !ids.contains_key(byte.as_str()));
        if let Some(byte) = lacking {
            return Err(self.refuse(&format!(
                "`tokenizer.ggml.tokens` lacks the byte `{byte}`, to which a `llama` tokenizer falls back"
            )));
        }
        let unknown = self.token_id("unknown")?.and_then(|id| tokens.get(id));
        let space = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
        let prefix = json!({ "type": "Prepend", "prepend": "▁" });
        // llama.cpp puts the space in front where the file does not say
        let prefixed = self.truth("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let normalizers = if prefixed { vec![prefix, space] } else { vec![space] };
        let merges = merges(tokens, self.scores(tokens.len())?, &ids);
        Ok(json!({
            "normalizer": { "type": "Sequence", "normalizers": normalizers },
            "pre_tokenizer": null,
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
                    { "type": "ByteFallback" },
                    { "type": "Fuse" },
                ],
            },
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unknown, "fuse_unk": true, "byte_fallback": true,
                "ignore_merges": false,
                "merges": merges.into_iter().map(|(left, right)| json!([left, right])).collect::<Vec<_>>(),
            },
        }))
    }

    fn scores(&self, tokens: usize) -> Result<Vec<f64>, CheckpointError> {
        let key = "tokenizer.ggml.scores";
        let scores = match self.get(key) {
            Some(GgufValue::Floats(scores)) => scores.clone(),
            Some(GgufValue::Integers(scores)) => scores.iter().map(|score| *score as f64).collect(),
            _ => {
                return Err(
                    self.refuse(&format!("the metadata lacks the list `{key}`, by which pieces are merged"))
                );
            }
        };
        match scores.len() >= tokens && scores.iter().all(|score| !score.is_nan()) {
            true => Ok(scores),
            false => Err(self.refuse(&format!("`{key}` has not a number for each of the {tokens} tokens"))),
        }
    }
}

/// The pairs of pieces that make a piece, the better score first. Of pairs of one score the longer left piece goes
/// first, as in `transformers` (`generate_merges`): llama.cpp and SentencePiece go from left to right there.
fn merges<'a>(tokens: &'a [String], scores: Vec<f64>, ids: &HashMap<&str, usize>) -> Vec<(&'a str, &'a str)> {
    let mut merges: Vec<(f64, &str, &str)> = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        let splits = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let known = splits.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right));
        merges.extend(known.map(|(left, right)| (score, left, right)));
    }
    let length = |text: &str| text.chars().count();
    merges.sort_by(|a, b| {
        b.0.total_cmp(&a.0).then(length(b.1).cmp(&length(a.1))).then(length(b.2).cmp(&length(a.2)))
    });
    merges.into_iter().map(|(_, left, right)| (left, right)).collect()
}
