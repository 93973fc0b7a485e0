//! From rows to examples.

use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::{Encoding, Tokenizer, TruncationParams};

use crate::read::{File, Row, read_split};
use crate::spec::{Column, SplitSpec, TaskKind, TaskSpec, Template};
use crate::{Example, Metric, Split, Target, TaskData, TaskError};

/// What a data set needs to know of a network.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// The tokenizer; drawn tokens need none.
    pub tokenizer: Option<Tokenizer>,
    /// The token that ends a text, if there is one.
    pub eos: Option<u32>,
    /// Number of tokens that the network knows.
    pub vocabulary: usize,
}

/// Labels that no loss counts.
const IGNORED: i64 = -100;

const ALPACA_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further \
                            context. Write a response that appropriately completes the request.";
const ALPACA: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";

impl TaskSpec {
    /// Reads and encodes the task's data; relative paths start at `base`.
    ///
    /// # Errors
    /// Where a file is missing or wrong, a label is out of range, or splits share rows.
    pub fn load(&self, base: &Path, encoder: &Encoder) -> Result<TaskData, TaskError> {
        let metrics = self.check()?;
        let splits: Vec<(&str, &SplitSpec)> =
            [("train", Some(&self.train)), ("validation", Some(&self.validation))]
                .into_iter()
                .chain([("test", self.test.as_ref())])
                .filter_map(|(name, split)| Some((name, split?)))
                .collect();
        for (i, (name, split)) in splits.iter().enumerate() {
            if let Some((other, _)) = splits[..i].iter().find(|(_, other)| split.overlaps(other)) {
                let path = split.parts().0[0].to_owned();
                let message = format!(
                    "{other} and {name} share rows of this file; give each its own, with skip and take"
                );
                return Err(TaskError::new(&self.name, base.join(path), message));
            }
        }
        let mut classes = Vec::new();
        let mut encoded = Vec::new();
        for (name, split) in &splits {
            if let SplitSpec::Random(rows) = split {
                encoded.push(self.drawn(rows, name, encoder.vocabulary)?);
                continue;
            }
            let files = read_split(self, split, name, base)?;
            if self.kind == TaskKind::Classification && encoded.is_empty() {
                classes = self.classes(&files)?;
            }
            let tokenizer = encoder.tokenizer.as_ref().ok_or_else(|| {
                let message =
                    "the model has no tokenizer.json; name one with `tokenizer = \"..\"` in [model]";
                TaskError::new(&self.name, "[[task]]", message)
            })?;
            encoded
                .push(Encode { task: self, tokenizer, eos: encoder.eos, classes: &classes }.split(&files)?);
        }
        let digest = digest(&encoded);
        let test = (encoded.len() > 2).then(|| encoded.remove(2));
        let validation = encoded.remove(1);
        let train = encoded.remove(0);
        let warnings = Vec::new();
        Ok(TaskData { kind: self.kind, train, validation, test, classes, metrics, digest, warnings })
    }

    fn check(&self) -> Result<Vec<Metric>, TaskError> {
        let refuse = |message: String| Err(TaskError::new(&self.name, "[[task]]", message));
        if self.max_length < 2 {
            return refuse(format!("max_length is {}; it must be 2 or more", self.max_length));
        }
        if self.labels.as_ref().is_some_and(|labels| labels.len() < 2) {
            return refuse("labels: give two or more".to_owned());
        }
        if self.score_first_token && !matches!(self.kind, TaskKind::CausalLm | TaskKind::Instruction) {
            let kind = self.kind.name();
            return refuse(format!(
                "score_first_token is for language models, not for {kind} tasks; leave it out"
            ));
        }
        let metrics = self.metrics.clone().unwrap_or_else(|| self.kind.default_metrics());
        if let Some(metric) = metrics.iter().find(|metric| !self.kind.allows(**metric)) {
            return refuse(format!("metrics: `{}` is not for {} tasks", metric.name(), self.kind.name()));
        }
        match metrics.is_empty() {
            true => refuse("metrics is empty; give at least one, or leave the key out".to_owned()),
            false => Ok(metrics),
        }
    }

    /// The classes: those that are named, or as many as the training set's integers say.
    fn classes(&self, train: &[File]) -> Result<Vec<String>, TaskError> {
        if let Some(labels) = &self.labels {
            return Ok(labels.clone());
        }
        let mut largest = 0;
        for file in train {
            for row in &file.rows {
                let value = cell(self, file, row, &self.columns.label)?;
                let class = integer(value).ok_or_else(|| {
                    let message = format!(
                        "the label {value} is no integer from 0; name the classes with labels = [..]"
                    );
                    self.at(file, row, &message)
                })?;
                largest = largest.max(class);
            }
        }
        Ok((0..=largest.max(1)).map(|class| class.to_string()).collect())
    }

    fn at(&self, file: &File, row: &Row, message: &str) -> TaskError {
        TaskError::new(&self.name, &file.path, format!("row {}: {message}", row.number))
    }
}

fn integer(value: &Value) -> Option<usize> {
    match value {
        Value::Number(number) => number.as_u64().map(|n| n as usize),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
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

fn cell<'a>(task: &TaskSpec, file: &File, row: &'a Row, column: &Column) -> Result<&'a Value, TaskError> {
    row.get(column).ok_or_else(|| {
        let named = row.cells.keys().filter(|name| name.parse::<usize>().is_err());
        let mut names: Vec<&str> = named.map(String::as_str).collect();
        if names.is_empty() {
            names = row.cells.keys().map(String::as_str).collect();
        }
        let message =
            format!("there is no column `{column}`; there are {} (set columns = {{ .. }})", names.join(", "));
        task.at(file, row, &message)
    })
}

struct Encode<'a> {
    task: &'a TaskSpec,
    tokenizer: &'a Tokenizer,
    eos: Option<u32>,
    classes: &'a [String],
}

impl Encode<'_> {
    fn split(&self, files: &[File]) -> Result<Split, TaskError> {
        let examples = match self.task.kind {
            TaskKind::Classification | TaskKind::Regression => self.sequences(files)?,
            TaskKind::CausalLm => self.running_text(files)?,
            TaskKind::Instruction => self.instructions(files)?,
        };
        if examples.is_empty() {
            let path = files.first().map(|file| file.path.clone()).unwrap_or_default();
            return Err(TaskError::new(&self.task.name, path, "gives no examples: its texts are too short"));
        }
        Ok(Split { examples })
    }

    fn text<'a>(&self, file: &File, row: &'a Row, column: &Column) -> Result<&'a str, TaskError> {
        let value = cell(self.task, file, row, column)?;
        value
            .as_str()
            .ok_or_else(|| self.task.at(file, row, &format!("column `{column}` holds no text but {value}")))
    }

    fn failed(&self, file: &File, error: &tokenizers::Error) -> TaskError {
        TaskError::new(&self.task.name, &file.path, format!("cannot be tokenised: {error}"))
    }

    fn sequences(&self, files: &[File]) -> Result<Vec<Example>, TaskError> {
        let mut tokenizer = self.tokenizer.clone();
        tokenizer.with_padding(None);
        let truncation = TruncationParams { max_length: self.task.max_length, ..TruncationParams::default() };
        let columns = &self.task.columns;
        let mut examples = Vec::new();
        for file in files {
            tokenizer.with_truncation(Some(truncation.clone())).map_err(|error| self.failed(file, &error))?;
            let mut texts: Vec<tokenizers::EncodeInput<'_>> = Vec::with_capacity(file.rows.len());
            let mut targets = Vec::with_capacity(file.rows.len());
            for row in &file.rows {
                let text = self.text(file, row, &columns.text)?;
                texts.push(match &columns.text_b {
                    Some(second) => (text, self.text(file, row, second)?).into(),
                    None => text.into(),
                });
                targets.push(self.target(file, row)?);
            }
            let encodings = tokenizer.encode_batch(texts, true).map_err(|error| self.failed(file, &error))?;
            examples
                .extend(encodings.iter().zip(targets).map(|(encoding, target)| example(encoding, target)));
        }
        Ok(examples)
    }

    fn target(&self, file: &File, row: &Row) -> Result<Target, TaskError> {
        let value = cell(self.task, file, row, &self.task.columns.label)?;
        if self.task.kind == TaskKind::Regression {
            let number = float(value)
                .ok_or_else(|| self.task.at(file, row, &format!("the label {value} is no number")))?;
            return match self.task.range {
                Some([low, high]) if !(low..=high).contains(&number) => {
                    let message =
                        format!("the label {number} is out of range [{low}, {high}]; mend it or set range");
                    Err(self.task.at(file, row, &message))
                }
                _ => Ok(Target::Value(number)),
            };
        }
        let named = value.as_str().and_then(|name| self.classes.iter().position(|class| class == name));
        named
            .or_else(|| integer(value).filter(|class| *class < self.classes.len()))
            .map(Target::Class)
            .ok_or_else(|| {
                let message =
                    format!("the label {value} is out of range: the classes are {}", self.classes.join(", "));
                self.task.at(file, row, &message)
            })
    }

    fn plain(&self, file: &File, text: &str, special: bool) -> Result<Vec<u32>, TaskError> {
        let encoding = self.tokenizer.encode(text, special).map_err(|error| self.failed(file, &error))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn running_text(&self, files: &[File]) -> Result<Vec<Example>, TaskError> {
        let length = self.task.max_length;
        let mut examples = Vec::new();
        let mut stream: Vec<u32> = Vec::new();
        for file in files {
            for row in &file.rows {
                let mut ids = self.plain(file, self.text(file, row, &self.task.columns.text)?, true)?;
                ids.extend(self.eos);
                if self.task.packing {
                    stream.extend(ids);
                } else {
                    ids.truncate(length);
                    examples.push(next_tokens(&ids));
                }
            }
        }
        examples.extend(stream.chunks(length).map(next_tokens));
        // one token alone predicts nothing
        examples.retain(|example| example.input_ids.len() > 1);
        Ok(examples)
    }

    fn instructions(&self, files: &[File]) -> Result<Vec<Example>, TaskError> {
        let mut examples = Vec::new();
        for file in files {
            for row in &file.rows {
                let turns = self.turns(file, row)?;
                let (mut ids, mut labels) = (Vec::new(), Vec::new());
                for (i, (text, trained)) in turns.iter().enumerate() {
                    let mut tokens = self.plain(file, text, i == 0)?;
                    if i + 1 == turns.len() && *trained && self.task.template == Template::Alpaca {
                        tokens.extend(self.eos);
                    }
                    labels.extend(tokens.iter().map(|id| if *trained { i64::from(*id) } else { IGNORED }));
                    ids.extend(tokens);
                }
                ids.truncate(self.task.max_length);
                labels.truncate(self.task.max_length);
                // an answer that does not fit leaves nothing to learn
                if labels.iter().skip(1).any(|label| *label >= 0) {
                    examples.push(Example {
                        token_type_ids: vec![0; ids.len()],
                        input_ids: ids,
                        target: Target::Tokens(labels),
                    });
                }
            }
        }
        Ok(examples)
    }

    /// A conversation as pieces of text, each with whether the loss counts it.
    fn turns(&self, file: &File, row: &Row) -> Result<Vec<(String, bool)>, TaskError> {
        let columns = &self.task.columns;
        if let Some(messages) = &columns.messages {
            return self.chat(file, row, messages);
        }
        let instruction = self.text(file, row, &columns.instruction)?;
        let output = self.text(file, row, &columns.output)?;
        let input = row.get(&columns.input).and_then(Value::as_str).unwrap_or_default();
        Ok(match self.task.template {
            Template::Alpaca if input.is_empty() => {
                vec![
                    (format!("{ALPACA}\n\n### Instruction:\n{instruction}\n\n### Response:\n"), false),
                    (output.to_owned(), true),
                ]
            }
            Template::Alpaca => {
                let prompt = format!(
                    "{ALPACA_INPUT}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
                );
                vec![(prompt, false), (output.to_owned(), true)]
            }
            Template::Chat => {
                let question =
                    if input.is_empty() { instruction.to_owned() } else { format!("{instruction}\n{input}") };
                [turn("user", &question), turn("assistant", output)].concat()
            }
        })
    }

    fn chat(&self, file: &File, row: &Row, column: &Column) -> Result<Vec<(String, bool)>, TaskError> {
        let wrong = |what: &str| self.task.at(file, row, &format!("column `{column}`: {what}"));
        let messages =
            cell(self.task, file, row, column)?.as_array().ok_or_else(|| wrong("holds no list of turns"))?;
        let mut pieces = Vec::new();
        for message in messages {
            let field = |a: &str, b: &str| message[a].as_str().or(message[b].as_str());
            let role = field("role", "from").ok_or_else(|| wrong("a turn has no `role`"))?;
            let content = field("content", "value").ok_or_else(|| wrong("a turn has no `content`"))?;
            let role = match role {
                "human" => "user",
                "gpt" => "assistant",
                role => role,
            };
            pieces.extend(turn(role, content));
        }
        Ok(pieces)
    }
}

/// A ChatML turn; the loss counts what the assistant says, and the token that ends it.
fn turn(role: &str, content: &str) -> Vec<(String, bool)> {
    let trained = role == "assistant";
    vec![
        (format!("<|im_start|>{role}\n"), false),
        (format!("{content}<|im_end|>"), trained),
        ("\n".to_owned(), false),
    ]
}

fn example(encoding: &Encoding, target: Target) -> Example {
    Example {
        input_ids: encoding.get_ids().to_vec(),
        token_type_ids: encoding.get_type_ids().to_vec(),
        target,
    }
}

pub(crate) fn next_tokens(ids: &[u32]) -> Example {
    Example {
        input_ids: ids.to_vec(),
        token_type_ids: vec![0; ids.len()],
        target: Target::Tokens(ids.iter().map(|id| i64::from(*id)).collect()),
    }
}

fn digest(splits: &[Split]) -> String {
    let mut digest = Sha256::new();
    for split in splits {
        digest.update((split.examples.len() as u64).to_le_bytes());
        for example in &split.examples {
            for id in &example.input_ids {
                digest.update(id.to_le_bytes());
            }
            match &example.target {
                Target::Class(class) => digest.update((*class as u64).to_le_bytes()),
                Target::Value(value) => digest.update(value.to_le_bytes()),
                Target::Tokens(tokens) => tokens.iter().for_each(|token| digest.update(token.to_le_bytes())),
            }
        }
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    /// Words are tokens: 0 is unknown, 1 the end of a text.
    fn encoder() -> Encoder {
        let words = ["<unk>", "<eos>", "a", "good", "bad", "film", "yes", "no", "?", "user", "assistant"];
        let vocabulary: serde_json::Map<String, Value> =
            words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
        let definition = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
        });
        let tokenizer = Tokenizer::from_str(&definition.to_string()).unwrap();
        Encoder { tokenizer: Some(tokenizer), eos: Some(1), vocabulary: words.len() }
    }

    fn load(dir: &Path, task: &str) -> Result<TaskData, TaskError> {
        toml::from_str::<TaskSpec>(task).unwrap().load(dir, &encoder())
    }

    fn files(content: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in content {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn fixture() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/data")
    }

    const SPLITS: &str = "train = \"t.tsv\"\nvalidation = \"v.tsv\"\n";

    #[test]
    fn quotes_in_a_tsv_are_characters() {
        let dir = files(&[
            ("t.tsv", "text\tlabel\n\"good\tpositive\nbad film\tnegative\n"),
            ("v.tsv", "text\tlabel\na\tpositive\n"),
        ]);
        let task = format!(
            "name = \"x\"\nkind = \"classification\"\nlabels = [\"negative\", \"positive\"]\n{SPLITS}"
        );
        let data = load(dir.path(), &task).unwrap();
        assert_eq!(data.train.examples.len(), 2);
        assert_eq!(data.train.examples[0].target, Target::Class(1));
        assert_eq!(data.train.examples[1].input_ids, [4, 5]);
    }

    #[test]
    fn the_loss_counts_the_answer_and_its_end_alone() {
        let row = r#"{"instruction": "good ?", "input": "", "output": "yes"}"#;
        let dir = files(&[("t.jsonl", row), ("v.json", &format!("[{row}]"))]);
        let task = "name = \"x\"\nkind = \"instruction\"\ntrain = \"t.jsonl\"\nvalidation = \"v.json\"\n";
        let data = load(dir.path(), task).unwrap();
        assert_eq!(data.train, data.validation);
        let Target::Tokens(labels) = &data.train.examples[0].target else { panic!("tokens") };
        let counted: Vec<i64> = labels.iter().copied().filter(|label| *label >= 0).collect();
        assert_eq!(counted, [6, 1]);
        assert_eq!(labels.len(), data.train.examples[0].input_ids.len());
    }

    #[test]
    fn parquet_has_texts_and_chat_turns() {
        let dir = fixture();
        let own = tempfile::tempdir().unwrap();
        std::fs::copy(dir.join("tiny.parquet"), own.path().join("train-00000-of-00001.parquet")).unwrap();
        std::fs::copy(dir.join("tiny.parquet"), own.path().join("validation-00000-of-00001.parquet"))
            .unwrap();
        // a folder as on the Hub
        let splits = "train = \".\"\nvalidation = \".\"\n";
        let data = load(own.path(), &format!("name = \"x\"\nkind = \"classification\"\n{splits}")).unwrap();
        assert_eq!(data.train.examples[0].input_ids, [2, 3, 5]);
        assert_eq!(data.train.examples[0].target, Target::Class(1));
        let task = format!(
            "name = \"x\"\nkind = \"instruction\"\ntemplate = \"chat\"\ncolumns = {{ messages = \"messages\" }}\n{splits}"
        );
        let data = load(own.path(), &task).unwrap();
        let Target::Tokens(labels) = &data.train.examples[1].target else { panic!("tokens") };
        assert!(labels.contains(&7) && !labels.contains(&4), "{labels:?}");
    }

    #[test]
    fn running_text_is_packed_into_blocks() {
        let dir = files(&[("t.tsv", "text\na good film\na bad film\n"), ("v.tsv", "text\na good\n")]);
        let task = format!("name = \"x\"\nkind = \"causal-lm\"\nmax_length = 5\n{SPLITS}");
        let data = load(dir.path(), &task).unwrap();
        let ids: Vec<_> = data.train.examples.iter().map(|example| example.input_ids.clone()).collect();
        assert_eq!(ids, [vec![2, 3, 5, 1, 2], vec![4, 5, 1]]);
    }

    #[test]
    fn splits_that_share_rows_are_refused() {
        let dir = files(&[("t.tsv", "text\tlabel\na\t0\ngood\t1\nbad\t0\n")]);
        let split = |skip: usize| {
            format!(
                "name = \"x\"\nkind = \"classification\"\ntrain = {{ path = \"t.tsv\", take = 2 }}\n\
                 validation = {{ path = \"t.tsv\", skip = {skip} }}\n"
            )
        };
        assert!(load(dir.path(), &split(2)).is_ok());
        let error = load(dir.path(), &split(1)).unwrap_err().to_string();
        assert!(error.contains("share rows") && error.contains("t.tsv"), "{error}");
    }
}
