//! How much longer a `tokenizer.json` makes a text before it is cut into tokens. Steps multiply: a file of some kilobytes
//! that repeats one of them asks for any amount of memory.

use serde_json::Value;

/// Above this no tokenizer is: those there are come to some hundreds.
const MOST: u64 = 1 << 16;

/// Why the steps of a `tokenizer.json` cannot be taken; none where they can.
pub(crate) fn refusal(definition: &Value) -> Option<String> {
    let grown = step(&definition["normalizer"]).saturating_mul(step(&definition["pre_tokenizer"]));
    (grown > MOST).then(|| {
        "its normalizer and pre_tokenizer together may make a text more than 65536 times as long, as no tokenizer does; \
         get the file again"
            .to_owned()
    })
}

/// The most bytes that a step makes of one.
fn step(value: &Value) -> u64 {
    let length = |key: &str| value[key].as_str().map_or(0, str::len) as u64;
    match value["type"].as_str().unwrap_or_default() {
        "Sequence" => ["normalizers", "pretokenizers"]
            .iter()
            .filter_map(|key| value[*key].as_array())
            .flatten()
            .fold(1, |product, inner| product.saturating_mul(step(inner))),
        // between any two bytes, where the pattern matches nothing
        "Replace" => 1 + length("content"),
        "Prepend" => 1 + length("prepend"),
        "Metaspace" => 1 + length("replacement"),
        "ByteLevel" => 2,
        "Lowercase" => 3,
        // the longest decomposition, U+FDFA, in UTF-8
        "NFKC" | "NFKD" => 11,
        "NFC" | "NFD" | "BertNormalizer" => 4,
        "Precompiled" => 16,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::refusal;

    #[test]
    fn steps_that_multiply_are_refused_and_those_of_known_tokenizers_taken() {
        let byte_level = json!({ "type": "ByteLevel" });
        let known = json!({
            "normalizer": { "type": "Sequence", "normalizers": [
                { "type": "Replace", "content": "\"" }, { "type": "Replace", "content": "\"" }, { "type": "NFKD" },
                { "type": "StripAccents" }, { "type": "Lowercase" }, { "type": "Precompiled" },
            ] },
            "pre_tokenizer": { "type": "Metaspace", "replacement": "\u{2581}" },
        });
        assert_eq!(refusal(&known), None);
        assert_eq!(refusal(&json!({ "pre_tokenizer": byte_level })), None);
        for steps in [vec![byte_level; 17], vec![json!({ "type": "Replace", "content": "x".repeat(300) }); 2]]
        {
            assert!(
                refusal(&json!({ "normalizer": { "type": "Sequence", "normalizers": steps } })).is_some()
            );
        }
    }
}
