//! The tokenizer of a model, and what the files beside it say of its special tokens.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::{EncodeInput, Encoding, TruncationParams};

use crate::CheckpointError;
use crate::growth;
use crate::guard::guarded;
use crate::splitting::contradiction;

/// A tokenizer that does what it is asked and nothing else: the truncation and padding that a `tokenizer.json`
/// keeps from whoever saved it last are off, as they are in `transformers` unless the caller asks for them. Clones
/// share its tables.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    /// Whether tokens say which text of a pair they are of; else all are of the first.
    segments: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// Where it cannot be read, or is not one.
    pub fn from_file(path: &Path) -> Result<Self, CheckpointError> {
        let bytes = std::fs::read(path).map_err(|error| CheckpointError::io(path, &error))?;
        Self::from_bytes(&bytes).map_err(|error| CheckpointError::new(path, error))
    }

    /// Reads what a `tokenizer.json` holds.
    ///
    /// # Errors
    /// Where it is not one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        // what is no JSON the library refuses by itself
        if let Some(reason) = serde_json::from_slice(bytes).ok().as_ref().and_then(growth::refusal) {
            return Err(reason);
        }
        let read = guarded(|| tokenizers::Tokenizer::from_bytes(bytes))?;
        Self::new(read.map_err(|error| format!("is no tokenizer.json: {error}"))?)
    }

    /// Takes a tokenizer from elsewhere.
    ///
    /// # Errors
    /// Where it gives other tokens each time.
    pub fn new(mut inner: tokenizers::Tokenizer) -> Result<Self, String> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        match inner.get_model() {
            tokenizers::ModelWrapper::BPE(model) if model.dropout.is_some_and(|share| share > 0.0) => {
                let message = "draws its tokens anew each time (model.dropout); set dropout to null";
                Err(message.to_owned())
            }
            _ => Ok(Self { inner: Arc::new(inner), segments: true }),
        }
    }

    /// The same, with what the files beside it say of the texts of a pair.
    ///
    /// # Errors
    /// Where a class of `transformers` would split a text otherwise; with the key.
    pub fn with(mut self, beside: &SpecialTokens) -> Result<Self, String> {
        beside.check(&self)?;
        self.segments = beside.segments();
        Ok(self)
    }

    /// The tokens of `text` with the special tokens that the file puts around it.
    ///
    /// # Errors
    /// Where the text cannot be tokenised.
    pub fn encode(&self, text: &str) -> Result<Encoding, String> {
        guarded(|| self.inner.encode(text, true))?.map_err(|error| error.to_string())
    }

    /// The tokens of texts or pairs of texts with the special tokens that the file puts around them, each cut to
    /// `max_length` tokens in all, of a pair the longer text first.
    ///
    /// # Errors
    /// Where a text cannot be tokenised.
    pub fn encode_all(
        &self,
        texts: Vec<EncodeInput<'_>>,
        max_length: usize,
    ) -> Result<Vec<Encoding>, String> {
        let encode = || {
            let mut inner = tokenizers::Tokenizer::clone(&self.inner);
            inner.with_truncation(Some(TruncationParams { max_length, ..TruncationParams::default() }))?;
            inner.encode_batch(texts, true)
        };
        let mut encodings = guarded(encode)?.map_err(|error| error.to_string())?;
        if !self.segments {
            encodings.iter_mut().for_each(|encoding| encoding.set_type_ids(vec![0; encoding.len()]));
        }
        Ok(encodings)
    }

    /// The id of `token`, if there is one of that spelling.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The spelling of the token `id`, if there is one.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}

/// What `tokenizer_config.json` (and the older `special_tokens_map.json`) and `generation_config.json` say.
#[derive(Clone, Debug, Default)]
pub struct SpecialTokens {
    /// The token that ends a text.
    pub eos: Option<String>,
    /// The token that fills rows up.
    pub pad: Option<String>,
    /// The token that begins a text.
    pub bos: Option<String>,
    /// `add_bos_token`: whether it is put there.
    pub add_bos: Option<bool>,
    /// `add_eos_token`: whether the token that ends a text is put there by the tokenizer.
    pub add_eos: Option<bool>,
    /// `eos_token_id` of `generation_config.json`: the tokens at which generation stops.
    pub generation: Value,
    /// `tokenizer_config.json`.
    pub config: Value,
    /// The `config.json` beside it, which may choose the tokenizer's class.
    pub network: Value,
}

impl SpecialTokens {
    /// Reads the files in `folder`; each of them may be missing.
    ///
    /// # Errors
    /// Where one of them is no JSON.
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let config = optional(&folder.join("tokenizer_config.json"))?;
        let map = optional(&folder.join("special_tokens_map.json"))?;
        let generation = optional(&folder.join("generation_config.json"))?;
        let token = |key: &str| spelling(&config[key]).or_else(|| spelling(&map[key]));
        Ok(Self {
            eos: token("eos_token"),
            pad: token("pad_token"),
            bos: token("bos_token"),
            add_bos: config["add_bos_token"].as_bool(),
            add_eos: config["add_eos_token"].as_bool(),
            generation: generation["eos_token_id"].clone(),
            config,
            network: optional(&folder.join("config.json"))?,
        })
    }

    /// Holds what `tokenizer_config.json` says of how a text is split against `tokenizer.json`.
    ///
    /// # Errors
    /// Where a class of `transformers` would split it otherwise than `tokenizer.json` says; with the key.
    fn check(&self, tokenizer: &Tokenizer) -> Result<(), String> {
        contradiction(&tokenizer.inner, &self.config, &self.network).map_or(Ok(()), Err)
    }

    /// Whether a network is told which text of a pair a token is of: `transformers` gives it what `model_input_names`
    /// lists, and everything where there is no list.
    fn segments(&self) -> bool {
        match &self.config["model_input_names"] {
            Value::Array(names) => names.iter().any(|name| name == "token_type_ids"),
            _ => true,
        }
    }

    /// Where these files say otherwise than `tokenizer.json` which tokens stand around a text; a sentence each.
    pub fn contradictions(&self, tokenizer: &Tokenizer) -> Vec<String> {
        let Ok(encoding) = tokenizer.encode("a") else { return Vec::new() };
        let ids = encoding.get_ids();
        let said = [
            ("add_bos_token", self.add_bos, &self.bos, ids.first(), "before"),
            ("add_eos_token", self.add_eos, &self.eos, ids.last(), "behind"),
        ];
        let wrong = |(key, said, token, found, place): (&str, Option<bool>, &Option<String>, _, &str)| {
            let (said, token) = (said?, token.as_deref()?);
            let id = tokenizer.id(token)?;
            let puts = match found == Some(&id) {
                true => "puts",
                false => "does not put",
            };
            (said != (found == Some(&id))).then(|| {
                format!(
                    "tokenizer_config.json says {key} = {said}, and tokenizer.json {puts} `{token}` {place} a text: \
                     tokenizer.json is followed, as in transformers 5 (version 4 followed {key} for LLaMA's tokenizers); \
                     mend its post_processor, or the key"
                )
            })
        };
        let mut told: Vec<String> = said.into_iter().filter_map(wrong).collect();
        if self.config["truncation_side"] == "left" {
            told.push(
                "tokenizer_config.json says truncation_side = left: a text that is too long is cut at its end all the same"
                    .to_owned(),
            );
        }
        let unknown: Vec<String> = self
            .added()
            .into_iter()
            .filter(|token| tokenizer.id(token).is_none())
            .map(|token| format!("`{token}`"))
            .collect();
        if !unknown.is_empty() {
            told.push(format!(
                "tokenizer_config.json adds tokens that tokenizer.json lacks, and which are read as ordinary text: {}",
                unknown.join(", ")
            ));
        }
        told
    }

    /// The tokens that `tokenizer_config.json` adds.
    fn added(&self) -> Vec<String> {
        let values = |key: &str| match &self.config[key] {
            Value::Array(values) => values.iter().filter_map(spelling).collect(),
            Value::Object(values) => values.values().filter_map(spelling).collect(),
            _ => Vec::new(),
        };
        let keys = ["added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"];
        let mut all: Vec<String> = keys.into_iter().flat_map(values).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// A token as these files have it: a string, or an object with `content`.
fn spelling(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

fn optional(path: &Path) -> Result<Value, CheckpointError> {
    if !path.is_file() {
        return Ok(Value::Null);
    }
    let bytes = std::fs::read(path).map_err(|error| CheckpointError::io(path, &error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| CheckpointError::new(path, format!("is no JSON: {error}; mend or remove it")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition() -> Value {
        json!({
            "version": "1.0", "added_tokens": [], "normalizer": null,
            "truncation": { "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 },
            "padding": {
                "strategy": { "Fixed": 5 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                "pad_type_id": 0, "pad_token": "a",
            },
            "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": { "a": 0, "b": 1 }, "unk_token": "a" },
        })
    }

    #[test]
    fn the_files_own_truncation_and_padding_are_off() {
        let tokenizer = Tokenizer::from_bytes(definition().to_string().as_bytes()).unwrap();
        assert_eq!(tokenizer.encode("a b b a").unwrap().get_ids(), [0, 1, 1, 0]);
        assert_eq!(tokenizer.encode("b").unwrap().get_ids(), [1]);
        let rows = tokenizer.encode_all(vec!["a b b a".into(), "b".into()], 3).unwrap();
        assert_eq!(rows[0].get_ids(), [0, 1, 1]);
        assert_eq!(rows[1].get_ids(), [1]);
    }

    #[test]
    fn a_panic_inside_the_library_is_an_error() {
        let mut wrong = definition();
        // a template that names a sequence that a single text has not
        wrong["post_processor"] = json!({
            "type": "TemplateProcessing", "single": [{ "Sequence": { "id": "B", "type_id": 0 } }], "pair": [],
            "special_tokens": {},
        });
        let tokenizer = Tokenizer::from_bytes(wrong.to_string().as_bytes()).unwrap();
        tokenizer.encode("a").unwrap_err();
    }

    #[test]
    fn tokens_that_are_drawn_anew_each_time_are_refused() {
        let mut wrong = definition();
        wrong["model"] = json!({
            "type": "BPE", "dropout": 0.1, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": { "a": 0, "b": 1 }, "merges": [],
        });
        let error = Tokenizer::from_bytes(wrong.to_string().as_bytes()).unwrap_err();
        assert!(error.contains("model.dropout"), "{error}");
    }

    #[test]
    fn tokens_around_a_text_that_two_files_say_otherwise_are_told() {
        let mut file = definition();
        let read = |file: &Value| Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap();
        let plain = read(&file);
        let token = |name: &str, at: u32| json!({ name: { "id": name, "ids": [at], "tokens": [name] } });
        file["model"]["vocab"] = json!({ "a": 0, "b": 1, "<s>": 2, "</s>": 3 });
        file["post_processor"] = json!({
            "type": "TemplateProcessing", "pair": [], "special_tokens": token("<s>", 2),
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        });
        let begins = read(&file);
        let special = |add_bos, add_eos| SpecialTokens {
            bos: Some("<s>".to_owned()),
            eos: Some("</s>".to_owned()),
            add_bos,
            add_eos,
            ..SpecialTokens::default()
        };
        for (add_bos, add_eos, told) in [
            (None, None, &[][..]),
            (Some(true), Some(false), &[]),
            (Some(false), None, &["add_bos_token = false"]),
            (Some(false), Some(true), &["add_bos_token = false", "add_eos_token = true"]),
        ] {
            let found = special(add_bos, add_eos).contradictions(&begins);
            assert_eq!(found.len(), told.len(), "{found:?}");
            assert!(told.iter().zip(&found).all(|(told, found)| found.contains(told)), "{found:?}");
        }
        // a tokenizer that has no such token cannot put it
        assert_eq!(special(Some(true), Some(true)).contradictions(&plain), Vec::<String>::new());
    }

    #[test]
    fn what_two_files_say_of_how_a_text_is_split_is_refused_or_told() {
        let mut file = definition();
        let with = |config: &Value| SpecialTokens { config: config.clone(), ..SpecialTokens::default() };
        let read = |file: &Value| Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap();
        file["normalizer"] = json!({
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true,
        });
        let bert = read(&file);
        file["normalizer"] = Value::Null;
        file["pre_tokenizer"] =
            json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true });
        let bytes = read(&file);
        for (tokenizer, config, refused) in [
            (
                &bert,
                json!({ "do_lower_case": true, "strip_accents": null, "tokenize_chinese_chars": true }),
                "",
            ),
            (&bert, json!({ "do_lower_case": false }), "do_lower_case"),
            (&bert, json!({ "strip_accents": false }), "strip_accents"),
            (&bert, json!({ "do_lower_case": false, "tokenizer_class": "PreTrainedTokenizerFast" }), ""),
            (&bert, json!({ "add_prefix_space": true }), ""),
            (
                &bytes,
                json!({ "add_prefix_space": true, "tokenizer_class": "RobertaTokenizer" }),
                "add_prefix_space",
            ),
            (&bytes, json!({ "add_prefix_space": false, "do_lower_case": true }), ""),
        ] {
            let said = with(&config).check(tokenizer).err().unwrap_or_default();
            assert_eq!(refused.is_empty(), said.is_empty(), "{config}: {said}");
            assert!(said.contains(refused), "{said}");
        }
        for (config, told) in [
            (json!({ "truncation_side": "left" }), "truncation_side"),
            (json!({ "additional_special_tokens": ["a", "<|user|>"] }), "`<|user|>`"),
            (json!({ "added_tokens_decoder": { "7": { "content": "<x>" } } }), "`<x>`"),
            (json!({ "added_tokens_decoder": { "0": { "content": "a" } }, "truncation_side": "right" }), ""),
        ] {
            let found = with(&config).contradictions(&bert);
            assert_eq!(found.len(), usize::from(!told.is_empty()), "{found:?}");
            assert!(found.concat().contains(told), "{found:?}");
        }
    }

    #[test]
    fn a_pair_is_one_segment_where_the_network_is_not_told_of_two() {
        let mut file = definition();
        let sequence = |id: &str, segment: u32| json!({ "Sequence": { "id": id, "type_id": segment } });
        file["post_processor"] = json!({
            "type": "TemplateProcessing", "single": [sequence("A", 0)], "special_tokens": {},
            "pair": [sequence("A", 0), sequence("B", 1)],
        });
        let tokenizer = Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap();
        for (config, segments) in [
            (json!({}), [0, 0, 1]),
            (json!({ "model_input_names": ["input_ids", "token_type_ids"] }), [0, 0, 1]),
            (json!({ "model_input_names": ["input_ids", "attention_mask"] }), [0, 0, 0]),
        ] {
            let beside = SpecialTokens { config, ..SpecialTokens::default() };
            let tokenizer = tokenizer.clone().with(&beside).unwrap();
            let rows = tokenizer.encode_all(vec![("a b", "b").into()], 8).unwrap();
            assert_eq!(rows[0].get_type_ids(), segments, "{}", beside.config);
        }
    }

    #[test]
    fn special_tokens_are_strings_or_objects() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("special_tokens_map.json", r#"{"eos_token": "</s>", "pad_token": {"content": "<pad>"}}"#);
        write("generation_config.json", r#"{"eos_token_id": [1, 2]}"#);
        let special = SpecialTokens::read(dir.path()).unwrap();
        assert_eq!((special.eos.as_deref(), special.pad.as_deref()), (Some("</s>"), Some("<pad>")));
        assert_eq!(special.generation, json!([1, 2]));
        write("tokenizer_config.json", r#"{"eos_token": {"content": "<|end|>"}, "pad_token": null}"#);
        let special = SpecialTokens::read(dir.path()).unwrap();
        assert_eq!((special.eos.as_deref(), special.pad.as_deref()), (Some("<|end|>"), Some("<pad>")));
        write("tokenizer_config.json", "{");
        assert!(SpecialTokens::read(dir.path()).unwrap_err().to_string().contains("tokenizer_config.json"));
    }
}
