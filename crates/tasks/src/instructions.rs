//! Instructions: the next token of an answer.

use std::ops::Range;

use serde_json::Value;

use crate::chat::{check_marks, turn};
use crate::counts::{Fate, TOO_LONG};
use crate::encode::{Encode, at, cell, shown};
use crate::read::{File, Row};
use crate::spec::{Columns, TaskKind, TaskSpec, Template};
use crate::tokens::{end, tokens};
use crate::{Example, Target, TaskError};

/// Labels that no loss counts.
const IGNORED: i64 = -100;

const ALPACA_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further \
                            context. Write a response that appropriately completes the request.";
const ALPACA: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";

/// Prompts and answers as one text. It is tokenised as one, as Stanford Alpaca, TRL and FastChat do: tokenizers that
/// put a space in front of each text would give an answer of its own other tokens.
#[derive(Default)]
pub(crate) struct Conversation {
    text: String,
    /// The parts of the text that the loss counts, in order.
    trained: Vec<Range<usize>>,
}

impl Conversation {
    pub(crate) fn push(&mut self, text: &str, trained: bool) {
        let start = self.text.len();
        self.text.push_str(text);
        if trained && !text.is_empty() {
            self.trained.push(start..self.text.len());
        }
    }

    /// Whether the loss counts a token of the bytes `token`: it does if one of them is in a trained part, for then the
    /// part cannot be told without it. A mark may take in the blanks beside it, and end behind the part that it ends.
    fn counts(&self, token: &Range<usize>) -> bool {
        // a tokenizer that leaves blanks out of a token's place leaves nothing of a token that is blank
        let start = token.start.min(token.end.saturating_sub(1));
        let part = self.trained.partition_point(|part| part.end <= start);
        self.trained.get(part).is_some_and(|part| part.start < token.end)
    }
}

impl TaskSpec {
    /// Whether the task puts the model's own token behind its texts; a chat's turns end with their mark.
    pub(crate) fn puts_end(&self) -> bool {
        match self.kind {
            TaskKind::CausalLm => true,
            TaskKind::Instruction => self.template == Template::Alpaca,
            TaskKind::Classification | TaskKind::Regression => false,
        }
    }
}

impl Encode<'_> {
    pub(crate) fn instructions(&mut self, files: &[File]) -> Result<Vec<Example>, TaskError> {
        if self.task.template == Template::Chat {
            check_marks(self.task, self.tokenizer)?;
        }
        let mut examples = Vec::new();
        for file in files {
            for row in &file.rows {
                examples.extend(self.instruction(file, row)?);
            }
        }
        Ok(examples)
    }

    fn instruction(&mut self, file: &File, row: &Row) -> Result<Option<Example>, TaskError> {
        let conversation = self.conversation(file, row)?;
        self.keep(&[&conversation.text]);
        let ends = self.task.puts_end();
        let tokens = tokens(self.tokenizer, &conversation.text, ends);
        let tokens = tokens.map_err(|message| self.failed(file, row, &message))?;
        let mut ids = tokens.ids;
        let counts =
            |place: &Option<Range<usize>>| place.as_ref().is_some_and(|token| conversation.counts(token));
        let mut labels: Vec<i64> = ids
            .iter()
            .zip(&tokens.places)
            .map(|(id, place)| if counts(place) { i64::from(*id) } else { IGNORED })
            .collect();
        if ends {
            end(&mut ids, self.eos);
            labels.resize(ids.len(), IGNORED);
            if let (Some(label), Some(eos)) = (labels.last_mut(), self.eos) {
                *label = i64::from(eos);
            }
        }
        if labels.iter().skip(1).all(|label| *label < 0) {
            self.counts.drop("they hold no answer that is learnt");
            return Ok(None);
        }
        let fate = self.task.fate(ids.len() > self.task.max_length);
        let fate = fate.map_err(|message| at(self.task, file, row, &message))?;
        if fate == Fate::Dropped {
            self.counts.drop(TOO_LONG);
            return Ok(None);
        }
        ids.truncate(self.task.max_length);
        labels.truncate(self.task.max_length);
        if labels.iter().skip(1).all(|label| *label < 0) {
            self.counts.drop("their prompts alone fill max_length");
            return Ok(None);
        }
        self.counts.cut += u64::from(fate == Fate::Cut);
        let token_type_ids = vec![0; ids.len()];
        Ok(Some(Example { input_ids: ids, token_type_ids, target: Target::Tokens(labels) }))
    }

    fn conversation(&self, file: &File, row: &Row) -> Result<Conversation, TaskError> {
        let unused = self.task.outside_template().find(|name| {
            let mut read = self.task.read_columns();
            read.extend(self.task.optional_columns());
            let known = read.iter().any(|column| column.to_string() == *name);
            !known && row.cells.get(*name).is_some_and(is_filled)
        });
        if let Some(name) = unused {
            let message = format!(
                "column `{name}` holds a part of the prompt that the template leaves out; put it into the turns, or \
                 rename or remove the column"
            );
            return Err(at(self.task, file, row, &message));
        }
        let columns = &self.task.columns;
        if let Some(messages) = &columns.messages {
            return self.chat(file, row, messages);
        }
        let instruction = self.text(file, row, &columns.instruction)?;
        let output = self.text(file, row, &columns.output)?;
        let input = self.input(file, row)?;
        let mut conversation = Conversation::default();
        match self.task.template {
            Template::Alpaca => {
                let (preamble, context) = match input {
                    "" => (ALPACA, String::new()),
                    _ => (ALPACA_INPUT, format!("### Input:\n{input}\n\n")),
                };
                let prompt =
                    format!("{preamble}\n\n### Instruction:\n{instruction}\n\n{context}### Response:\n");
                conversation.push(&prompt, false);
                conversation.push(output, true);
            }
            Template::Chat => {
                let question =
                    if input.is_empty() { instruction.to_owned() } else { format!("{instruction}\n{input}") };
                turn(&mut conversation, "user", &question, false);
                turn(&mut conversation, "assistant", output, true);
            }
        }
        Ok(conversation)
    }

    /// What goes with an instruction; rows of the default column's name need have none.
    fn input<'a>(&self, file: &File, row: &'a Row) -> Result<&'a str, TaskError> {
        let column = &self.task.columns.input;
        let value = match row.get(column) {
            None if *column == Columns::default().input => return Ok(""),
            _ => cell(self.task, file, row, column)?,
        };
        match value {
            Value::Null => Ok(""),
            Value::String(text) => Ok(text),
            other => {
                let message =
                    format!("column `{column}` holds no text but {}; write it as a text", shown(other));
                Err(at(self.task, file, row, &message))
            }
        }
    }
}

/// Whether a cell holds something.
pub(crate) fn is_filled(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => values.values().any(is_filled),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_counts_that_has_a_byte_of_an_answer_or_its_end() {
        let mut conversation = Conversation::default();
        for (text, trained) in [("ask\n", false), ("yes<end>", true), ("\n", false), ("no", true)] {
            conversation.push(text, trained);
        }
        for (token, counts) in [
            (0..4, false),
            (4..7, true),
            (7..12, true),
            // the mark with the line's end behind it, and the prompt's last line with the answer's first word
            (7..13, true),
            (3..7, true),
            (12..13, false),
            (13..15, true),
            // blanks of which nothing is left, before an answer, within it, and at its end
            (4..4, false),
            (6..6, true),
            (12..12, true),
            (13..13, false),
            (15..15, true),
        ] {
            assert_eq!(conversation.counts(&token), counts, "{token:?}");
        }
    }
}
