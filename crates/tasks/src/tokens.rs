//! A text as tokens, with special tokens where they belong and nowhere twice.

use std::ops::Range;

use peftlab_checkpoint::Tokenizer;

/// A text as tokens.
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    /// Where each token stands in the text, in bytes; none for those that the tokenizer puts around it.
    pub(crate) places: Vec<Option<Range<usize>>>,
}

/// The tokens of `text`, with those that the tokenizer puts in front of one, and behind it if `behind` says so. Where
/// the text itself begins or ends with them, they stand once.
pub(crate) fn tokens(tokenizer: &Tokenizer, text: &str, behind: bool) -> Result<Tokens, String> {
    let encoding = tokenizer.encode(text)?;
    let (ids, mask) = (encoding.get_ids(), encoding.get_special_tokens_mask());
    let own = |mask: &mut dyn Iterator<Item = &u32>| mask.take_while(|special| **special == 1).count();
    let front = own(&mut mask.iter());
    let back = if front == ids.len() { 0 } else { own(&mut mask.iter().rev()) };
    let (before, after) = (&ids[..front], &ids[ids.len() - back..]);
    let body = &ids[front..ids.len() - back];
    let before = if front > 0 && body.starts_with(before) { &[] } else { before };
    let after = if !behind || (back > 0 && body.ends_with(after)) { &[] } else { after };
    let places =
        encoding.get_offsets()[front..ids.len() - back].iter().map(|(start, end)| Some(*start..*end));
    let around = |tokens: &[u32]| std::iter::repeat_n(None, tokens.len());
    Ok(Tokens {
        places: around(before).chain(places).chain(around(after)).collect(),
        ids: [before, body, after].concat(),
    })
}

/// The part of `ids` without special tokens that the tokenizer puts where the text has them.
pub(crate) fn once(ids: &[u32], special: &[u32]) -> Range<usize> {
    let own = |mask: &mut dyn Iterator<Item = &u32>| mask.take_while(|special| **special == 1).count();
    let front = own(&mut special.iter());
    if front == ids.len() {
        return 0..ids.len();
    }
    let back = own(&mut special.iter().rev());
    let (before, body, after) = (&ids[..front], &ids[front..ids.len() - back], &ids[ids.len() - back..]);
    let start = if body.starts_with(before) { front } else { 0 };
    // what begins with them does not end with the same ones
    let rest = &body[if start > 0 { before.len() } else { 0 }..];
    let end = if back > 0 && rest.ends_with(after) { ids.len() - back } else { ids.len() };
    start..end
}

/// Puts `eos` behind `ids` where it is not there yet.
pub(crate) fn end(ids: &mut Vec<u32>, eos: Option<u32>) {
    if let Some(eos) = eos.filter(|eos| ids.last() != Some(eos)) {
        ids.push(eos);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Words are tokens; the file puts 0 in front of a text and, if asked, 1 behind it.
    fn tokenizer(behind: bool) -> Tokenizer {
        let special = |id: u32, content: &str| {
            json!({ "id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false })
        };
        let piece = |token: &str| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
        let mut single = vec![piece("<s>"), json!({ "Sequence": { "id": "A", "type_id": 0 } })];
        single.extend(behind.then(|| piece("</s>")));
        let definition = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
            "added_tokens": [special(0, "<s>"), special(1, "</s>")],
            "pre_tokenizer": { "type": "Whitespace" },
            "post_processor": {
                "type": "TemplateProcessing", "single": single, "pair": [],
                "special_tokens": {
                    "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] },
                    "</s>": { "id": "</s>", "ids": [1], "tokens": ["</s>"] },
                },
            },
            "model": { "type": "WordLevel", "vocab": { "<s>": 0, "</s>": 1, "a": 2, "b": 3 }, "unk_token": "a" },
        });
        Tokenizer::from_bytes(definition.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn around_a_text_of_a_class_they_stand_once_too() {
        for (ids, special, kept) in [
            (&[0, 2, 3, 1][..], &[1, 0, 0, 1][..], 0..4),
            (&[0, 0, 2, 1, 1], &[1, 0, 0, 0, 1], 1..4),
            (&[0, 2, 1, 1], &[1, 0, 0, 1], 0..3),
            (&[0, 0, 2, 1], &[1, 0, 0, 1], 1..4),
            (&[0, 1], &[1, 1], 0..2),
            (&[2, 3], &[0, 0], 0..2),
            (&[], &[], 0..0),
            // one token before and behind, and the text is that token
            (&[0, 0, 0], &[1, 0, 1], 1..3),
        ] {
            assert_eq!(once(ids, special), kept, "{ids:?}");
        }
    }

    #[test]
    fn special_tokens_stand_once() {
        for adds in [false, true] {
            let tokenizer = tokenizer(adds);
            for text in ["a b", "<s>a b", "a b</s>", "<s> a b </s>"] {
                let mut ids = tokens(&tokenizer, text, true).unwrap().ids;
                end(&mut ids, Some(1));
                assert_eq!(ids, [0, 2, 3, 1], "{text}");
            }
            assert_eq!(tokens(&tokenizer, "a", false).unwrap().ids, [0, 2]);
            let mut ids = tokens(&tokenizer, "", true).unwrap().ids;
            end(&mut ids, Some(1));
            assert_eq!(ids, [0, 1]);
        }
        let tokens = tokens(&tokenizer(true), "a b", true).unwrap();
        assert_eq!(tokens.places, [None, Some(0..1), Some(2..3), None]);
    }
}
