//! The tokenizer inside a GGUF file, by way of the Hub's `tokenizer.json`.

use std::collections::HashSet;
use std::str::FromStr;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::keys::short;
use super::pre_tokenizer::{self, PreTokenizer};
use super::{Gguf, GgufValue};
use crate::{CheckpointError, TensorSource};

/// Token types in GGUF.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

const PRE: &str = "tokenizer.ggml.pre";

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
        let tokens = self.tokens()?;
        self.check_ids(tokens.len())?;
        let mut definition = match kind {
            "gpt2" => self.byte_level()?,
            "llama" => self.sentence_piece(&tokens)?,
            other => {
                let message = format!("`tokenizer.ggml.model` is `{other}`; only gpt2 and llama can be read");
                return Err(self.refuse(&message));
            }
        };
        let vocabulary = tokens.iter().enumerate().map(|(id, token)| (token.clone(), Value::from(id)));
        definition["model"]["vocab"] = vocabulary.collect::<serde_json::Map<_, _>>().into();
        definition["version"] = "1.0".into();
        definition["truncation"] = Value::Null;
        definition["padding"] = Value::Null;
        definition["added_tokens"] = self.added(&tokens)?;
        definition["post_processor"] = self.post_processor(&tokens, kind)?;
        Tokenizer::from_str(&definition.to_string())
            .map_err(|error| self.refuse(&format!("the tokenizer in the metadata is not one: {error}")))
    }

    /// The tokens, each of them once; llama.cpp gives an empty one a name.
    fn tokens(&self) -> Result<Vec<String>, CheckpointError> {
        let key = "tokenizer.ggml.tokens";
        let name = |(id, token): (usize, &String)| match token.is_empty() {
            true => format!("[EMPTY_{id}]"),
            false => token.clone(),
        };
        let tokens: Vec<String> = self.strings(key)?.iter().enumerate().map(name).collect();
        let mut seen = HashSet::new();
        if let Some(twice) = tokens.iter().find(|token| !seen.insert(token.as_str())) {
            return Err(self.refuse(&format!("`{key}` has the token `{twice}` twice")));
        }
        let rows = self.info("model.embed_tokens.weight").map_or(usize::MAX, |info| info.shape[0]);
        match tokens.len() <= rows {
            true => Ok(tokens),
            false => Err(self.refuse(&format!(
                "`{key}` has {} tokens, but `token_embd.weight` only {rows} rows",
                tokens.len()
            ))),
        }
    }

    fn strings(&self, key: &str) -> Result<&[String], CheckpointError> {
        match self.get(key) {
            Some(GgufValue::Strings(values)) => Ok(values),
            _ => Err(self.refuse(&format!("the metadata lacks the list of texts `{key}`"))),
        }
    }

    pub(super) fn truth(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Bool(truth)) => Ok(Some(*truth)),
            Some(other) => Err(self.refuse(&format!("`{key}` is {}, neither true nor false", short(other)))),
        }
    }

    /// The id of a token with a role. SentencePiece's tokens have those of Llama 2 where the file does not say.
    pub(super) fn token_id(&self, role: &str) -> Result<Option<usize>, CheckpointError> {
        let given = self.integer(&format!("tokenizer.ggml.{role}_token_id"))?;
        let pieces =
            matches!(self.get("tokenizer.ggml.model"), Some(GgufValue::String(kind)) if kind == "llama");
        Ok(given.or(match role {
            "unknown" if pieces => Some(0),
            "bos" if pieces => Some(1),
            "eos" if pieces => Some(2),
            _ => None,
        }))
    }

    fn check_ids(&self, tokens: usize) -> Result<(), CheckpointError> {
        for role in
            ["bos", "eos", "unknown", "padding", "eot", "eom", "seperator", "separator", "cls", "mask"]
        {
            if let Some(id) = self.token_id(role)?
                && id >= tokens
            {
                return Err(self.refuse(&format!(
                    "`tokenizer.ggml.{role}_token_id` is {id}, but there are {tokens} tokens"
                )));
            }
        }
        Ok(())
    }

    /// Tokens that are found in a text before it is cut.
    fn added(&self, tokens: &[String]) -> Result<Value, CheckpointError> {
        let key = "tokenizer.ggml.token_type";
        let types: &[i64] = match self.get(key) {
            // all of them are ordinary where the file does not say
            None => &[],
            Some(GgufValue::Integers(types)) if types.len() >= tokens.len() => types,
            Some(other) => {
                let message =
                    format!("`{key}` is {}, not a number for each of {} tokens", short(other), tokens.len());
                return Err(self.refuse(&message));
            }
        };
        let added = tokens.iter().zip(types).enumerate().filter_map(|(id, (token, kind))| {
            let special = match *kind {
                CONTROL | UNKNOWN => true,
                USER_DEFINED => false,
                _ => return None,
            };
            Some(json!({
                "id": id, "content": token, "special": special,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }))
        });
        Ok(added.collect())
    }

    /// The tokens around a text.
    fn post_processor(&self, tokens: &[String], kind: &str) -> Result<Value, CheckpointError> {
        let absent = match kind {
            "llama" => true,
            _ => self.pre_tokenizer()?.adds_bos,
        };
        let around = |key: &str, role: &str, absent: bool| {
            if !self.truth(key)?.unwrap_or(absent) {
                return Ok(None);
            }
            let id = self.token_id(role)?.and_then(|id| Some((id, tokens.get(id)?)));
            let lacking = format!(
                "`{key}` is true or left to its default, but there is no `tokenizer.ggml.{role}_token_id`"
            );
            id.map(Some).ok_or_else(|| self.refuse(&lacking))
        };
        let first = around("tokenizer.ggml.add_bos_token", "bos", absent)?;
        let last = around("tokenizer.ggml.add_eos_token", "eos", false)?;
        if first.is_none() && last.is_none() {
            return Ok(Value::Null);
        }
        let mut special = serde_json::Map::new();
        for (id, token) in first.iter().chain(&last) {
            special.insert((*token).clone(), json!({ "id": token, "ids": [id], "tokens": [token] }));
        }
        let text = |sequence: &str, type_id: usize| {
            let token = |token: &Option<(usize, &String)>| {
                token.map(|(_, token)| json!({ "SpecialToken": { "id": token, "type_id": type_id } }))
            };
            let sequence = json!({ "Sequence": { "id": sequence, "type_id": type_id } });
            token(&first).into_iter().chain([sequence]).chain(token(&last)).collect::<Vec<Value>>()
        };
        let pair = [text("A", 0), text("B", 1)].concat();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": text("A", 0),
            "pair": pair,
            "special_tokens": special,
        }))
    }

    fn pre_tokenizer(&self) -> Result<PreTokenizer, CheckpointError> {
        let name = match self.get(PRE) {
            None => "default",
            Some(GgufValue::String(name)) if name.is_empty() => "default",
            Some(GgufValue::String(name)) => name,
            Some(other) => return Err(self.refuse(&format!("`{PRE}` is {}, no name", short(other)))),
        };
        pre_tokenizer::pre_tokenizer(name).ok_or_else(|| {
            let known = pre_tokenizer::names();
            self.refuse(&format!("`{PRE}` is `{name}`, whose rules are not implemented; there are {known}"))
        })
    }

    /// What to say where nobody wrote down how the text is to be cut.
    pub(super) fn pre_tokenizer_warning(&self) -> Option<String> {
        let bytes =
            matches!(self.get("tokenizer.ggml.model"), Some(GgufValue::String(kind)) if kind == "gpt2");
        let what = match self.get(PRE) {
            _ if !bytes => return None,
            None => "lacks the key",
            Some(GgufValue::String(name)) if name == "default" || name.is_empty() => "says `default` for",
            Some(_) => return None,
        };
        Some(format!(
            "{}: {what} `{PRE}`, so texts are cut by llama.cpp's default rules; the tokens may be others than the model was \
             trained with: convert it anew with a llama.cpp of after May 2024",
            self.describe()
        ))
    }

    /// Byte-level BPE, as GPT-2 has it.
    fn byte_level(&self) -> Result<Value, CheckpointError> {
        let rules = self.pre_tokenizer()?;
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
        let split = |pattern: &&str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        let steps: Vec<Value> = rules.patterns.iter().map(split).chain([bytes.clone()]).collect();
        Ok(json!({
            "normalizer": null,
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": steps },
            "decoder": bytes,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": rules.ignore_merges,
                "merges": self.strings("tokenizer.ggml.merges")?,
            },
        }))
    }
}
