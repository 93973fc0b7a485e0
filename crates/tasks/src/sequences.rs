//! Classification and regression: a text or a pair of texts, and a class or a value.

use peftlab_checkpoint::{EncodeInput, Encoding};
use serde_json::Value;

use crate::counts::{Fate, TOO_LONG};
use crate::encode::{Encode, at, cell, shown};
use crate::labels;
use crate::read::{File, Row};
use crate::spec::TaskKind;
use crate::tokens::once;
use crate::{Example, Target, TaskError};

impl Encode<'_> {
    pub(crate) fn sequences(&mut self, files: &[File]) -> Result<Vec<Example>, TaskError> {
        self.check_room()?;
        let mut examples = Vec::new();
        for file in files {
            let mut texts: Vec<EncodeInput<'_>> = Vec::with_capacity(file.rows.len());
            let mut targets = Vec::with_capacity(file.rows.len());
            for row in &file.rows {
                let text = self.text(file, row, &self.task.columns.text)?;
                texts.push(match &self.task.columns.text_b {
                    Some(second) => {
                        let second = self.text(file, row, second)?;
                        self.keep(&[text, second]);
                        (text, second).into()
                    }
                    None => {
                        self.keep(&[text]);
                        text.into()
                    }
                });
                targets.push(self.target(file, row)?);
            }
            let encodings = self.tokenizer.encode_all(texts, self.task.max_length).map_err(|message| {
                TaskError::new(&self.task.name, &file.path, format!("cannot be tokenised: {message}"))
            })?;
            for ((row, encoding), target) in file.rows.iter().zip(&encodings).zip(targets) {
                let long = !encoding.get_overflowing().is_empty();
                match self.task.fate(long).map_err(|message| at(self.task, file, row, &message))? {
                    Fate::Dropped => {
                        self.counts.drop(TOO_LONG);
                        continue;
                    }
                    Fate::Cut => self.counts.cut += 1,
                    Fate::Kept => {}
                }
                if encoding.get_ids().is_empty() {
                    let message = "the tokenizer makes no token of its text; leave the row out, or name the network's own \
                                   tokenizer in [model]";
                    return Err(at(self.task, file, row, message));
                }
                examples.push(example(encoding, target));
            }
        }
        Ok(examples)
    }

    /// Beside the tokenizer's own special tokens there must be room for a text.
    fn check_room(&self) -> Result<(), TaskError> {
        let empty = match self.task.columns.text_b {
            Some(_) => ("", "").into(),
            None => "".into(),
        };
        let refuse = |message: String| TaskError::new(&self.task.name, "[[task]]", message);
        let special = self.tokenizer.encode_all(vec![empty], usize::MAX).map_err(refuse)?;
        let special = special.first().map_or(0, |encoding| encoding.get_ids().len());
        match self.task.max_length > special {
            true => Ok(()),
            false => Err(refuse(format!(
                "max_length is {}, and the tokenizer's special tokens alone are {special}; raise it",
                self.task.max_length
            ))),
        }
    }

    fn target(&self, file: &File, row: &Row) -> Result<Target, TaskError> {
        let value = cell(self.task, file, row, &self.task.columns.label)?;
        let out_of_range = |message: String| at(self.task, file, row, &message);
        if self.task.kind == TaskKind::Regression {
            if labels::is_missing(value) {
                return Err(labels::missing(self.task, file, row));
            }
            let number = float(value)
                .ok_or_else(|| out_of_range(format!("the label {} is no number", shown(value))))?;
            return match self.task.range {
                Some([low, high]) if !(low..=high).contains(&number) => Err(out_of_range(format!(
                    "the label {number} is out of range [{low}, {high}]; mend it or set range"
                ))),
                _ => Ok(Target::Value(number)),
            };
        }
        if let Some(class) = labels::class(value, self.classes) {
            return Ok(Target::Class(class));
        }
        if labels::is_missing(value) {
            return Err(labels::missing(self.task, file, row));
        }
        let mut classes: Vec<&str> = self.classes.iter().take(20).map(String::as_str).collect();
        if self.classes.len() > classes.len() {
            classes.push("..");
        }
        let classes = classes.join(", ");
        Err(out_of_range(format!("the label {} is out of range: the classes are {classes}", shown(value))))
    }
}

fn float(value: &Value) -> Option<f32> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.map(|number| number as f32).filter(|number| number.is_finite())
}

/// Where a text itself begins or ends with the special tokens that stand around it, they stand once.
fn example(encoding: &Encoding, target: Target) -> Example {
    let kept = once(encoding.get_ids(), encoding.get_special_tokens_mask());
    Example {
        input_ids: encoding.get_ids()[kept.clone()].to_vec(),
        token_type_ids: encoding.get_type_ids()[kept].to_vec(),
        target,
    }
}
