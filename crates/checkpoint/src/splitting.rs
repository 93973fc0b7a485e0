//! How a text is split, by `tokenizer.json` and by what `tokenizer_config.json` says of it.

use serde_json::Value;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

/// Classes of `transformers` that take `tokenizer.json` as it is.
const GENERIC: [&str; 2] = ["PreTrainedTokenizerFast", "TokenizersBackend"];

/// The class that the Hub's files name for their tokenizer, as `AutoTokenizer` of `transformers` 5 chooses it; none
/// where `tokenizer.json` is taken as it is, empty where nothing says.
fn class<'a>(config: &'a Value, network: &'a Value, bytes: bool) -> Option<&'a str> {
    let model = network["model_type"].as_str();
    let named = config["tokenizer_class"].as_str().or_else(|| network["tokenizer_class"].as_str());
    let own = match model {
        // Mistral's own class reads other files
        Some("mistral") => return None,
        Some("bert") => "BertTokenizer",
        Some("roberta") => "RobertaTokenizer",
        Some(_) => GENERIC[0],
        None => "",
    };
    let class = named.unwrap_or(own);
    let class = class.strip_suffix("Fast").filter(|_| class != GENERIC[0]).unwrap_or(class);
    // LLaMA's class knows pieces alone
    let as_it_is = GENERIC.contains(&class) || class == "LlamaTokenizer" && bytes;
    (!as_it_is).then_some(class)
}

/// Something that both files may say: the key of `tokenizer_config.json`, its value by `tokenizer.json`, and what that
/// has for it.
type Said = (&'static str, bool, String);

/// Where `config`, the `tokenizer_config.json`, says otherwise than `tokenizer` how a text is split, with the key;
/// `network` is the `config.json` beside them. Classes of `transformers` that are made for one network go by the former
/// (BERT's by `do_lower_case`, RoBERTa's and LLaMA's by `add_prefix_space`), so that nothing says which of two is meant.
pub(crate) fn contradiction(tokenizer: &Tokenizer, config: &Value, network: &Value) -> Option<String> {
    let normalizers = normalizers(tokenizer);
    let pre_tokenizers = pre_tokenizers(tokenizer);
    let bytes = pre_tokenizers.iter().any(|part| matches!(part, PreTokenizerWrapper::ByteLevel(_)));
    let class = class(config, network, bytes)?;
    let mut said = letters(&normalizers, class);
    said.extend(prefix(&normalizers, &pre_tokenizers));
    let differs = |(key, own, _): &Said| config[*key].as_bool().is_some_and(|said| said != *own);
    said.into_iter().find(differs).map(|(key, own, has)| {
        format!(
            "tokenizer_config.json says {key} = {}, and tokenizer.json {has}; make the two the same",
            !own
        )
    })
}

/// What becomes of letters.
fn letters(normalizers: &[&NormalizerWrapper], class: &str) -> Vec<Said> {
    let bert = normalizers.iter().find_map(|part| match part {
        NormalizerWrapper::BertNormalizer(bert) => Some(bert),
        _ => None,
    });
    let said = |key, name: &str, own: bool| (key, own, format!("normalizer.{name} = {own}"));
    if let Some(bert) = bert {
        return vec![
            said("do_lower_case", "lowercase", bert.lowercase),
            said("strip_accents", "strip_accents", bert.strip_accents.unwrap_or(bert.lowercase)),
            said("tokenize_chinese_chars", "handle_chinese_chars", bert.handle_chinese_chars),
        ];
    }
    let lowers = normalizers.iter().any(|part| matches!(part, NormalizerWrapper::Lowercase(_)));
    let has =
        || ("do_lower_case", lowers, format!("has {} normalizer Lowercase", if lowers { "a" } else { "no" }));
    // other classes write the key and do nothing with it
    (lowers || class == "BertTokenizer").then(has).into_iter().collect()
}

/// Whether a blank is put in front of a text.
fn prefix(normalizers: &[&NormalizerWrapper], pre_tokenizers: &[&PreTokenizerWrapper]) -> Option<Said> {
    const KEY: &str = "add_prefix_space";
    // older files of pieces have it among their normalizers
    if normalizers.iter().any(|part| matches!(part, NormalizerWrapper::Prepend(_))) {
        return Some((KEY, true, "has a normalizer Prepend".to_owned()));
    }
    let own = pre_tokenizers.iter().find_map(|part| match part {
        PreTokenizerWrapper::ByteLevel(bytes) => {
            let own = bytes.add_prefix_space;
            Some((KEY, own, format!("pre_tokenizer.add_prefix_space = {own}")))
        }
        PreTokenizerWrapper::Metaspace(Metaspace { prepend_scheme, .. }) => {
            let name = match prepend_scheme {
                PrependScheme::First => "first",
                PrependScheme::Never => "never",
                PrependScheme::Always => "always",
            };
            Some((KEY, name != "never", format!("pre_tokenizer.prepend_scheme = {name}")))
        }
        _ => None,
    });
    let blank =
        |part: &&NormalizerWrapper| matches!(part, NormalizerWrapper::Replace(blank) if blank.content == "▁");
    let none = || (KEY, false, "has no normalizer Prepend".to_owned());
    own.or_else(|| normalizers.iter().any(blank).then(none))
}

/// The normalizers, one by one.
fn normalizers(tokenizer: &Tokenizer) -> Vec<&NormalizerWrapper> {
    one_by_one(tokenizer.get_normalizer(), |part| match part {
        NormalizerWrapper::Sequence(parts) => Some(parts.as_ref()),
        _ => None,
    })
}

/// The pre-tokenizers, one by one.
fn pre_tokenizers(tokenizer: &Tokenizer) -> Vec<&PreTokenizerWrapper> {
    one_by_one(tokenizer.get_pre_tokenizer(), |part| match part {
        PreTokenizerWrapper::Sequence(parts) => Some(parts.as_ref()),
        _ => None,
    })
}

/// What `whole` consists of, in order; `parts` gives those of a sequence.
fn one_by_one<'a, T>(whole: Option<&'a T>, parts: impl Fn(&'a T) -> Option<&'a [T]>) -> Vec<&'a T> {
    let mut left: Vec<&T> = whole.into_iter().collect();
    let mut found = Vec::new();
    while let Some(part) = left.pop() {
        match parts(part) {
            Some(inner) => left.extend(inner.iter().rev()),
            None => found.push(part),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Words are tokens.
    fn tokenizer(normalizer: &Value, pre_tokenizer: &Value) -> Tokenizer {
        let definition = json!({
            "version": "1.0", "added_tokens": [], "normalizer": normalizer, "truncation": null, "padding": null,
            "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": { "a": 0 }, "unk_token": "a" },
        });
        Tokenizer::from_bytes(definition.to_string()).unwrap()
    }

    fn bert(lowercase: bool) -> Value {
        json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": lowercase })
    }

    fn bytes(prefix: bool) -> Value {
        json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true })
    }

    fn pieces(scheme: &str) -> Value {
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false })
    }

    fn older(prepends: bool) -> Value {
        let blank = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
        let prepend = prepends.then(|| json!({ "type": "Prepend", "prepend": "▁" }));
        json!({ "type": "Sequence", "normalizers": prepend.into_iter().chain([blank]).collect::<Vec<_>>() })
    }

    /// The values are what `AutoTokenizer` of transformers 5.24 does: refused is what it takes otherwise than
    /// `tokenizer.json` has it.
    #[test]
    fn what_a_class_reads_otherwise_than_the_file_has_it_is_refused() {
        let none = Value::Null;
        let nested = |part: Value| json!({ "type": "Sequence", "normalizers": [{ "type": "NFC" }, part] });
        let digits = json!({ "type": "Digits", "individual_digits": true });
        let after = |part: Value| json!({ "type": "Sequence", "pretokenizers": [digits, part] });
        let lower = json!({ "type": "Lowercase" });
        let (llama, gpt2, bert_class) = ("LlamaTokenizer", "GPT2TokenizerFast", "BertTokenizerFast");
        for (class, normalizer, pre_tokenizer, key, refused) in [
            (llama, &none, &pieces("first"), "add_prefix_space", false),
            (llama, &none, &pieces("always"), "add_prefix_space", false),
            (llama, &none, &after(pieces("always")), "add_prefix_space", false),
            (llama, &none, &pieces("never"), "add_prefix_space", true),
            (llama, &older(true), &none, "add_prefix_space", false),
            (llama, &older(false), &none, "add_prefix_space", true),
            (gpt2, &none, &bytes(true), "add_prefix_space", false),
            (gpt2, &none, &after(bytes(false)), "add_prefix_space", true),
            (bert_class, &bert(true), &none, "do_lower_case", false),
            (bert_class, &nested(bert(true)), &none, "do_lower_case", false),
            (bert_class, &nested(bert(false)), &none, "do_lower_case", true),
            (bert_class, &nested(lower), &none, "do_lower_case", false),
            (bert_class, &none, &none, "do_lower_case", true),
        ] {
            let tokenizer = tokenizer(normalizer, pre_tokenizer);
            let said = |class: &str, value: bool| {
                contradiction(&tokenizer, &json!({ "tokenizer_class": class, key: value }), &none)
            };
            let what = format!("{class} {normalizer} {pre_tokenizer}");
            let message = said(class, refused).unwrap_or_else(|| panic!("{what} is taken"));
            assert!(message.contains(&format!("says {key} = {refused}")), "{message}");
            assert_eq!(said(class, !refused), None, "{what}");
            for generic in GENERIC {
                assert_eq!(said(generic, refused), None, "{what}");
            }
        }
    }

    #[test]
    fn the_class_is_the_one_that_transformers_takes() {
        let none = Value::Null;
        let (pieces, bytes, bert) = (
            tokenizer(&none, &pieces("first")),
            tokenizer(&none, &bytes(true)),
            tokenizer(&bert(true), &none),
        );
        let model = |model: &str| json!({ "model_type": model });
        for (tokenizer, network, config, refused) in [
            (&pieces, model("llama"), json!({ "tokenizer_class": "LlamaTokenizerFast" }), true),
            (&pieces, json!({ "model_type": "llama", "tokenizer_class": "LlamaTokenizer" }), json!({}), true),
            (&pieces, model("llama"), json!({}), false),
            (&pieces, model("mistral"), json!({ "tokenizer_class": "LlamaTokenizer" }), false),
            (&bytes, model("llama"), json!({ "tokenizer_class": "LlamaTokenizer" }), false),
            (&bytes, model("llama"), json!({ "tokenizer_class": "GPT2Tokenizer" }), true),
            (&bytes, model("roberta"), json!({}), true),
            (&bytes, none.clone(), json!({}), true),
            (&bert, model("bert"), json!({}), true),
            (&bert, model("bert"), json!({ "tokenizer_class": "PreTrainedTokenizerFast" }), false),
        ] {
            let mut said = config.clone();
            said["add_prefix_space"] = false.into();
            said["do_lower_case"] = false.into();
            let found = contradiction(tokenizer, &said, &network);
            assert_eq!(found.is_some(), refused, "{network} {config}: {found:?}");
        }
    }
}
