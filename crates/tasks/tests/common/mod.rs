//! A tokenizer whose words are tokens.

use peftlab_checkpoint::Tokenizer;
use peftlab_tasks::{Encoder, EndOfText};
use serde_json::{Map, Value, json};

/// 0 is unknown, 1 the end of a text, 10 and 11 the marks of ChatML.
pub(crate) fn encoder() -> Encoder {
    let words = [
        "<unk>",
        "<eos>",
        "a",
        "good",
        "bad",
        "film",
        "yes",
        "?",
        "user",
        "assistant",
        "<|im_start|>",
        "<|im_end|>",
    ];
    let vocabulary: Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
    let mark = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false })
    };
    let definition = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [mark(10, "<|im_start|>"), mark(11, "<|im_end|>")],
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    });
    let tokenizer = Tokenizer::from_bytes(definition.to_string().as_bytes()).unwrap();
    Encoder {
        tokenizer: Some(tokenizer),
        eos: EndOfText::Token { id: 1, note: None },
        vocabulary: words.len(),
    }
}
