//! Chat turns, in ChatML.

use peftlab_checkpoint::Tokenizer;
use serde_json::{Map, Value};

use crate::encode::{Encode, at, cell, shown};
use crate::instructions::{Conversation, is_filled};
use crate::read::{File, Row};
use crate::spec::{Column, TaskSpec};
use crate::{TaskError, tokens};

const START: &str = "<|im_start|>";
const END: &str = "<|im_end|>";

/// Roles by the names that data sets have for them (axolotl's remaps; published ShareGPT files).
const ROLES: [(&str, &str); 9] = [
    ("system", "system"),
    ("user", "user"),
    ("human", "user"),
    ("assistant", "assistant"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("model", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
];

/// Keys of a turn that name it and change nothing of what is said.
const HARMLESS: [&str; 12] = [
    "id",
    "message_id",
    "uuid",
    "turn_id",
    "parent_id",
    "index",
    "timestamp",
    "created_at",
    "create_time",
    "lang",
    "language",
    "model",
];

/// Keys with which a data set says whether a turn is learnt: OpenAI's, and axolotl's two.
const TRAINED: [&str; 3] = ["weight", "train", "training"];

/// Adds a turn; the loss counts what is said and the mark that ends it.
pub(crate) fn turn(conversation: &mut Conversation, role: &str, content: &str, trained: bool) {
    conversation.push(&format!("{START}{role}\n"), false);
    conversation.push(&format!("{content}{END}"), trained);
    conversation.push("\n", false);
}

/// Refuses a tokenizer that takes the marks for ordinary text.
pub(crate) fn check_marks(task: &TaskSpec, tokenizer: &Tokenizer) -> Result<(), TaskError> {
    for mark in [START, END] {
        let refuse = |message: String| TaskError::new(&task.name, "[[task]]", message);
        let ids = tokens::tokens(tokenizer, mark, false).map_err(refuse)?.ids;
        let known = tokenizer.id(mark).filter(|id| ids.ends_with(&[*id]) && ids.len() <= 2);
        if known.is_none() {
            return Err(refuse(format!(
                "template = \"chat\" puts ChatML's {START} and {END} around turns, and the tokenizer has no token \
                 {mark}: it would be read as ordinary text; take a model with a ChatML tokenizer, or template = \"alpaca\""
            )));
        }
    }
    Ok(())
}

/// A turn as the data set has it.
struct Turn<'a> {
    role: &'static str,
    content: &'a str,
    trained: bool,
}

impl Encode<'_> {
    pub(crate) fn chat(&self, file: &File, row: &Row, column: &Column) -> Result<Conversation, TaskError> {
        let wrong = |what: String| at(self.task, file, row, &format!("column `{column}`: {what}"));
        let value = cell(self.task, file, row, column)?;
        let messages = value.as_array().ok_or_else(|| {
            let remedy = match value {
                Value::String(_) => {
                    "JSON within a text is not read: write the list itself, in JSON or Parquet"
                }
                _ => "write a list of objects with a role and a content, or leave the row out",
            };
            wrong(format!("holds no list of turns but {}; {remedy}", shown(value)))
        })?;
        let mut conversation = Conversation::default();
        for (i, message) in messages.iter().enumerate() {
            let Turn { role, content, trained } =
                read(message).map_err(|what| wrong(format!("turn {}: {what}", i + 1)))?;
            turn(&mut conversation, role, content, trained);
        }
        Ok(conversation)
    }
}

fn read(message: &Value) -> Result<Turn<'_>, String> {
    let fields = message.as_object().ok_or_else(|| format!("is no object but {}", shown(message)))?;
    let role = either(fields, "role", "from")?;
    let named = role.as_str().ok_or_else(|| format!("the role is no text but {}", shown(role)))?;
    let known = ROLES.into_iter().find(|(name, _)| *name == named);
    let (_, role) = known.ok_or_else(|| {
        let names: Vec<&str> = ROLES.iter().map(|(name, _)| *name).collect();
        format!(
            "the role `{named}` is not known; there are {}; rename it or leave the row out",
            names.join(", ")
        )
    })?;
    for (key, value) in fields {
        let read =
            ["role", "from", "content", "value"].contains(&key.as_str()) || TRAINED.contains(&key.as_str());
        if !read && !HARMLESS.contains(&key.as_str()) && is_filled(value) {
            return Err(format!(
                "`{key}` is not supported, and changes what is said; leave the key or the row out"
            ));
        }
    }
    let content = either(fields, "content", "value")?;
    let content = content.as_str().ok_or_else(|| {
        format!(
            "the content is no text but {}; only texts are supported, join or leave out its parts",
            shown(content)
        )
    })?;
    Ok(Turn { role, content, trained: trained(fields, role)? })
}

/// The field that goes by one of two names.
fn either<'a>(fields: &'a Map<String, Value>, a: &str, b: &str) -> Result<&'a Value, String> {
    let present = |key: &str| fields.get(key).filter(|value| !value.is_null());
    match (present(a), present(b)) {
        (Some(one), Some(other)) if one != other => {
            Err(format!("has `{a}` and `{b}`, which differ; leave one out"))
        }
        (Some(value), _) | (None, Some(value)) => Ok(value),
        (None, None) => match fields.get(a).or(fields.get(b)) {
            Some(_) => Err(format!("its `{a}` is null; leave the row out")),
            None => Err(format!("has no `{a}`")),
        },
    }
}

/// Whether the loss counts the turn: what the assistant says, unless the turn itself says otherwise.
fn trained(fields: &Map<String, Value>, role: &str) -> Result<bool, String> {
    let mut trained = role == "assistant";
    for key in TRAINED {
        let says = match fields.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Bool(says)) => *says,
            Some(Value::Number(number)) if number.as_f64() == Some(0.0) => false,
            Some(Value::Number(number)) if number.as_f64() == Some(1.0) => true,
            Some(other) => return Err(format!("`{key}` is {}; it can be 0 or 1", shown(other))),
        };
        if says && key != "weight" && role != "assistant" {
            return Err(format!(
                "`{key}` asks to learn what `{role}` says, which is not supported; leave the key out"
            ));
        }
        trained &= says;
    }
    Ok(trained)
}
