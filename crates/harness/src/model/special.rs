//! Which token ends a text, and which fills rows up.

use peftlab_checkpoint::{SpecialTokens, Tokenizer};
use peftlab_tasks::EndOfText;
use serde_json::Value;

use crate::experiment::ModelSpec;

/// The token that ends a text: the experiment's, else `tokenizer_config.json`'s, else the one of `config.json`, else
/// the one of `generation_config.json`. The last two may name several, for generation stops at any of them; then
/// nothing says which one a text was trained to end with.
pub(crate) fn end_of_text(
    spec: &ModelSpec,
    config: &Value,
    special: &SpecialTokens,
    tokenizer: Option<&Tokenizer>,
) -> EndOfText {
    let id = |token: &str| tokenizer.and_then(|tokenizer| tokenizer.id(token));
    if let Some(token) = &spec.eos_token {
        return match id(token) {
            Some(id) => EndOfText::Token { id, note: None },
            None => {
                EndOfText::Unclear(format!("eos_token: the tokenizer has no token `{token}`; name another"))
            }
        };
    }
    for (file, value) in
        [("config.json", &config["eos_token_id"]), ("generation_config.json", &special.generation)]
    {
        if let Some(wrong) = no_id(value) {
            return EndOfText::Unclear(format!(
                "{file}: eos_token_id holds {wrong}, which is no token's id; write an integer or a list of them, or choose \
                 with eos_token = \"..\" in [model]"
            ));
        }
    }
    let configured = ids(&config["eos_token_id"]);
    if let ([only], true) = (&configured[..], spec.config.contains_key("eos_token_id")) {
        return EndOfText::Token { id: *only, note: None };
    }
    if let Some(token) = &special.eos {
        return match id(token) {
            Some(id) => EndOfText::Token { id, note: disagreement(token, id, &configured) },
            None => EndOfText::Unclear(format!(
                "tokenizer_config.json says that texts end with eos_token `{token}`, and the tokenizer has no such \
                 token; name the right one with eos_token = \"..\" in [model]"
            )),
        };
    }
    for (file, ids) in [("config.json", configured), ("generation_config.json", ids(&special.generation))] {
        match &ids[..] {
            [] => {}
            [only] => return EndOfText::Token { id: *only, note: None },
            several => return EndOfText::Unclear(several_ends(file, several, tokenizer)),
        }
    }
    EndOfText::None
}

/// A token id or a list of them; -1 stands for none.
fn ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let mut ids: Vec<u32> = match value {
        Value::Array(values) => values.iter().filter_map(id).collect(),
        value => id(value).into_iter().collect(),
    };
    ids.dedup();
    ids
}

/// What stands in place of an id, a list of them, or of -1 and null for none.
fn no_id(value: &Value) -> Option<&Value> {
    match value {
        Value::Array(values) => values.iter().find(|value| value.is_array() || no_id(value).is_some()),
        Value::Null => None,
        value => value.as_i64().is_none_or(|id| !(-1..=i64::from(u32::MAX)).contains(&id)).then_some(value),
    }
}

fn disagreement(token: &str, id: u32, configured: &[u32]) -> Option<String> {
    let differs = !configured.is_empty() && !configured.contains(&id);
    differs.then(|| {
        format!(
            "texts end with `{token}` ({id}), as tokenizer_config.json says; config.json says eos_token_id = \
             {configured:?}; eos_token = \"..\" in [model] chooses"
        )
    })
}

fn several_ends(file: &str, ids: &[u32], tokenizer: Option<&Tokenizer>) -> String {
    let token = |id: &u32| tokenizer.and_then(|tokenizer| tokenizer.token(*id)).unwrap_or_default();
    let tokens: Vec<String> = ids.iter().map(|id| format!("`{}` ({id})", token(id))).collect();
    format!(
        "{file} names several tokens that end a text (eos_token_id: {}), and no tokenizer_config.json says which one \
         is meant; choose with eos_token = \"..\" in [model]",
        tokens.join(", ")
    )
}

/// The token that fills rows up: the model's own, for RoBERTa counts positions by it, else the tokenizer's; else any,
/// for filled positions are masked.
pub(crate) fn padding(config: &Value, special: &SpecialTokens, tokenizer: Option<&Tokenizer>) -> u32 {
    let known = |id: &u32| config["vocab_size"].as_u64().is_none_or(|size| u64::from(*id) < size);
    let own = ids(&config["pad_token_id"]).into_iter().next();
    // transformers' RobertaConfig has 1 where the file says nothing
    let own = own.or_else(|| (config["model_type"] == "roberta").then_some(1));
    let named = || special.pad.as_ref().and_then(|token| tokenizer?.id(token));
    own.filter(known).or_else(|| named().filter(known)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(text: &str) -> ModelSpec {
        toml::from_str(&format!("source = \"x\"\n{text}")).unwrap()
    }

    fn tokenizer() -> Tokenizer {
        let definition = json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "truncation": null, "padding": null,
            "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": { "a": 0, "end": 1, "turn": 2, "pad": 3 }, "unk_token": "a" },
        });
        Tokenizer::from_bytes(definition.to_string().as_bytes()).unwrap()
    }

    fn special(eos: Option<&str>, generation: Value) -> SpecialTokens {
        let (eos, pad) = (eos.map(str::to_owned), Some("pad".to_owned()));
        SpecialTokens { eos, pad, generation, ..SpecialTokens::default() }
    }

    #[test]
    fn the_end_of_a_text_is_found_or_asked_for() {
        let tokenizer = tokenizer();
        let end = |own: &str, config: Value, special: &SpecialTokens| {
            end_of_text(&spec(own), &config, special, Some(&tokenizer))
        };
        let token = |id| EndOfText::Token { id, note: None };
        let nothing = special(None, Value::Null);
        let list = json!({ "eos_token_id": [1, 2] });
        assert_eq!(end("", json!({ "eos_token_id": 2 }), &nothing), token(2));
        assert_eq!(end("", json!({ "eos_token_id": [2] }), &nothing), token(2));
        assert_eq!(end("", list.clone(), &special(Some("end"), Value::Null)), token(1));
        assert_eq!(end("eos_token = \"turn\"", list.clone(), &special(Some("end"), Value::Null)), token(2));
        assert_eq!(end("", json!({}), &special(None, json!(2))), token(2));
        assert_eq!(end("", json!({ "eos_token_id": -1 }), &nothing), EndOfText::None);
        assert_eq!(end("", json!({ "eos_token_id": null }), &nothing), EndOfText::None);
        for wrong in
            [json!(2.0), json!("2"), json!([1, "2"]), json!([[2]]), json!(true), json!({}), json!(-2)]
        {
            for (config, special) in [
                (json!({ "eos_token_id": wrong }), special(Some("end"), Value::Null)),
                (json!({}), special(None, wrong.clone())),
            ] {
                let EndOfText::Unclear(why) = end("", config, &special) else { panic!("{wrong} is no id") };
                assert!(
                    why.contains("config.json: eos_token_id holds") && why.contains("eos_token = "),
                    "{why}"
                );
            }
        }
        let EndOfText::Unclear(why) = end("", list, &nothing) else { panic!("it is not clear") };
        assert!(why.contains("`end` (1), `turn` (2)") && why.contains("eos_token = "), "{why}");
        let EndOfText::Unclear(why) = end("eos_token = \"no\"", json!({}), &nothing) else {
            panic!("no token")
        };
        assert!(why.contains("no token `no`"), "{why}");
        let EndOfText::Token { id: 1, note: Some(note) } =
            end("", json!({ "eos_token_id": 2 }), &special(Some("end"), Value::Null))
        else {
            panic!("tokenizer_config.json goes before config.json")
        };
        assert!(note.contains("config.json says"), "{note}");
        // what the experiment itself says goes before both
        let own = "config = { eos_token_id = 2 }";
        assert_eq!(end(own, json!({ "eos_token_id": 2 }), &special(Some("end"), Value::Null)), token(2));
    }

    #[test]
    fn rows_are_filled_with_the_models_own_token() {
        let tokenizer = tokenizer();
        let pad = |config: Value| padding(&config, &special(None, Value::Null), Some(&tokenizer));
        assert_eq!(pad(json!({ "pad_token_id": 2, "vocab_size": 4 })), 2);
        assert_eq!(pad(json!({ "pad_token_id": null, "vocab_size": 4 })), 3);
        assert_eq!(pad(json!({ "pad_token_id": -1, "vocab_size": 3 })), 0);
        assert_eq!(pad(json!({ "pad_token_id": 9, "vocab_size": 4 })), 3);
        assert_eq!(pad(json!({ "model_type": "roberta", "vocab_size": 4 })), 1);
    }
}
