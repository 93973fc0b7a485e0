//! From rows to examples.

use std::path::Path;

use peftlab_checkpoint::Tokenizer;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::counts::SplitCounts;
use crate::leakage::{Content, duplicates, same_rows};
use crate::read::{File, Row, Rows, read_split};
use crate::spec::{Column, SplitSpec, TaskKind, TaskSpec};
use crate::{Example, Split, Target, TaskData, TaskError, labels};

/// What a data set needs to know of a network.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// The tokenizer; drawn tokens need none.
    pub tokenizer: Option<Tokenizer>,
    /// The token that ends a text.
    pub eos: EndOfText,
    /// Number of tokens that the network knows; 0 where its configuration does not say.
    pub vocabulary: usize,
}

/// The token that ends a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndOfText {
    /// This one.
    Token {
        /// Its id.
        id: u32,
        /// What a reader of the numbers should know of the choice.
        note: Option<String>,
    },
    /// There is none.
    None,
    /// There may be one, but the model's files do not say which: the reason, with the remedy.
    Unclear(String),
}

/// What a split gave.
#[derive(Default)]
struct Encoded {
    split: Split,
    counts: SplitCounts,
    contents: Vec<Content>,
}

impl TaskSpec {
    /// Reads and encodes the task's data; relative paths start at `base`.
    ///
    /// # Errors
    /// Where a file is missing or wrong, a label is out of range, or splits share rows.
    pub fn load(&self, base: &Path, encoder: &Encoder) -> Result<TaskData, TaskError> {
        let metrics = self.check()?;
        let (mut classes, mut warnings) = (Vec::new(), Vec::new());
        let mut read: Vec<(&str, Rows)> = Vec::new();
        let mut encoded: Vec<Encoded> = Vec::new();
        for (name, split) in self.splits() {
            if let SplitSpec::Random(rows) = split {
                let split = self.drawn(rows, name, encoder.vocabulary)?;
                encoded.push(Encoded {
                    counts: counted(name, rows.random_rows, &split),
                    split,
                    ..Encoded::default()
                });
                continue;
            }
            let rows = read_split(self, split, name, base)?;
            let earlier: Vec<(&str, &[File])> =
                read.iter().map(|(name, rows)| (*name, &rows.files[..])).collect();
            same_rows(&self.name, &earlier, name, &rows.files)?;
            if self.kind == TaskKind::Classification && encoded.is_empty() {
                classes = labels::classes(self, &rows.files)?;
                labels::check_metrics(self, &metrics, &classes)?;
            }
            if read.is_empty() {
                warnings.extend(self.check_end(encoder)?);
            }
            encoded.push(self.encode(name, &rows.files, encoder, &classes)?);
            warnings.extend(rows.warnings.iter().cloned());
            read.push((name, rows));
        }
        let splits: Vec<SplitCounts> = encoded.iter().map(|encoded| encoded.counts.clone()).collect();
        warnings.extend(splits.iter().flat_map(|counts| counts.warnings(self)));
        let contents: Vec<(&str, Vec<Content>)> = encoded
            .iter_mut()
            .zip(&splits)
            .map(|(encoded, counts)| (counts.name.as_str(), std::mem::take(&mut encoded.contents)))
            .collect();
        warnings.extend(duplicates(&contents));
        warnings.extend(labels::unlearnt(&classes, &encoded[0].split));
        let mut encoded: Vec<Split> = encoded.into_iter().map(|encoded| encoded.split).collect();
        let digest = digest(&encoded);
        let test = (encoded.len() > 2).then(|| encoded.remove(2));
        let validation = encoded.remove(1);
        let train = encoded.remove(0);
        Ok(TaskData { kind: self.kind, train, validation, test, classes, metrics, splits, digest, warnings })
    }

    /// The splits that there are, with their names.
    fn splits(&self) -> impl Iterator<Item = (&'static str, &SplitSpec)> {
        let splits = [
            ("train", Some(&self.train)),
            ("validation", Some(&self.validation)),
            ("test", self.test.as_ref()),
        ];
        splits.into_iter().filter_map(|(name, split)| Some((name, split?)))
    }

    /// Whether the token that ends a text is known where one is put, and what to say of it.
    fn check_end(&self, encoder: &Encoder) -> Result<Option<String>, TaskError> {
        if !self.puts_end() {
            return Ok(None);
        }
        let refuse = |message: String| Err(TaskError::new(&self.name, "[model]", message));
        match &encoder.eos {
            EndOfText::Token { id, .. } if encoder.vocabulary > 0 && *id as usize >= encoder.vocabulary => refuse(format!(
                "the token {id} that ends a text (eos_token_id) is beyond the network's vocab_size = {}; name another \
                 with eos_token = \"..\" in [model]",
                encoder.vocabulary
            )),
            EndOfText::Token { note, .. } => Ok(note.clone()),
            EndOfText::None => Ok(Some(
                "the model's files name no token that ends a text (eos_token), so none is put there; name one with \
                 eos_token = \"..\" in [model]"
                    .to_owned(),
            )),
            EndOfText::Unclear(why) => refuse(why.clone()),
        }
    }

    fn encode(
        &self,
        name: &str,
        files: &[File],
        encoder: &Encoder,
        classes: &[String],
    ) -> Result<Encoded, TaskError> {
        let tokenizer = encoder.tokenizer.as_ref().ok_or_else(|| {
            let message = "the model has no tokenizer.json; name one with `tokenizer = \"..\"` in [model]";
            TaskError::new(&self.name, "[[task]]", message)
        })?;
        let eos = match encoder.eos {
            EndOfText::Token { id, .. } => Some(id),
            EndOfText::None | EndOfText::Unclear(_) => None,
        };
        let rows = files.iter().map(|file| file.rows.len() as u64).sum();
        let counts = SplitCounts { name: name.to_owned(), rows, ..SplitCounts::default() };
        let mut encode = Encode { task: self, tokenizer, eos, classes, counts, contents: Vec::new() };
        let examples = match self.kind {
            TaskKind::Classification | TaskKind::Regression => encode.sequences(files)?,
            TaskKind::CausalLm => encode.running_text(files)?,
            TaskKind::Instruction => encode.instructions(files)?,
        };
        let path = files.first().map(|file| file.path.clone()).unwrap_or_default();
        if examples.is_empty() {
            let reasons =
                encode.counts.dropped.iter().map(|(reason, count)| format!("{count} rows: {reason}"));
            let reasons: Vec<String> = reasons.collect();
            let message =
                format!("{name}: gives no examples: its texts are too short ({})", reasons.join("; "));
            return Err(TaskError::new(&self.name, path, message));
        }
        let largest =
            examples.iter().flat_map(|example| &example.input_ids).max().copied().unwrap_or_default();
        if encoder.vocabulary > 0 && largest as usize >= encoder.vocabulary {
            let message = format!(
                "{name}: the tokenizer's token `{}` has the id {largest}, beyond the network's vocab_size = {}; it was \
                 added to the tokenizer alone: resize the network's embeddings, or name its own tokenizer in [model]",
                tokenizer.token(largest).unwrap_or_default(),
                encoder.vocabulary
            );
            return Err(TaskError::new(&self.name, path, message));
        }
        let mut counts = encode.counts;
        counts.examples = examples.len() as u64;
        counts.tokens = examples.iter().map(|example| example.input_ids.len() as u64).sum();
        Ok(Encoded { split: Split { examples }, counts, contents: encode.contents })
    }
}

fn counted(name: &str, rows: usize, split: &Split) -> SplitCounts {
    SplitCounts {
        name: name.to_owned(),
        rows: rows as u64,
        examples: split.examples.len() as u64,
        tokens: split.examples.iter().map(|example| example.input_ids.len() as u64).sum(),
        ..SplitCounts::default()
    }
}

/// An error of a row.
pub(crate) fn at(task: &TaskSpec, file: &File, row: &Row, message: &str) -> TaskError {
    TaskError::new(&task.name, &file.path, format!("row {}: {message}", row.number))
}

/// A value for a message, not too long.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{} ..", &text[..end]),
        None => text,
    }
}

pub(crate) fn cell<'a>(
    task: &TaskSpec,
    file: &File,
    row: &'a Row,
    column: &Column,
) -> Result<&'a Value, TaskError> {
    row.get(column).ok_or_else(|| {
        let names: Vec<&str> = row.cells.keys().map(String::as_str).collect();
        let message =
            format!("there is no column `{column}`; there are {} (set columns = {{ .. }})", names.join(", "));
        at(task, file, row, &message)
    })
}

/// What the kinds of tasks share while a split is encoded.
pub(crate) struct Encode<'a> {
    pub(crate) task: &'a TaskSpec,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) eos: Option<u32>,
    pub(crate) classes: &'a [String],
    pub(crate) counts: SplitCounts,
    pub(crate) contents: Vec<Content>,
}

impl Encode<'_> {
    pub(crate) fn text<'a>(&self, file: &File, row: &'a Row, column: &Column) -> Result<&'a str, TaskError> {
        let value = cell(self.task, file, row, column)?;
        value.as_str().ok_or_else(|| {
            let remedy = match value {
                Value::Null => "leave out rows without one",
                _ => "write it as a text",
            };
            let message = format!("column `{column}` holds no text but {}; {remedy}", shown(value));
            at(self.task, file, row, &message)
        })
    }

    /// An error of a row that cannot be encoded.
    pub(crate) fn failed(&self, file: &File, row: &Row, message: &str) -> TaskError {
        at(self.task, file, row, &format!("cannot be tokenised: {message}"))
    }

    /// Keeps what an example is made of.
    pub(crate) fn keep(&mut self, texts: &[&str]) {
        let mut digest = Sha256::new();
        for text in texts {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let mut content = Content::default();
        content.copy_from_slice(&digest[..size_of::<Content>()]);
        self.contents.push(content);
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
            // of the texts of a pair; what has one text is what it was without them
            if example.token_type_ids.iter().any(|segment| *segment > 0) {
                example.token_type_ids.iter().for_each(|segment| digest.update(segment.to_le_bytes()));
            }
            match &example.target {
                Target::Class(class) => digest.update((*class as u64).to_le_bytes()),
                Target::Value(value) => digest.update(value.to_le_bytes()),
                Target::Tokens(tokens) => tokens.iter().for_each(|token| digest.update(token.to_le_bytes())),
            }
        }
    }
    hex::encode(digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoder() -> Encoder {
        words(false)
    }

    /// Words are tokens: 0 is unknown, 1 the end of a text. The marks of a turn may take in the blanks behind them.
    fn words(rstrip: bool) -> Encoder {
        let words = [
            "<unk>",
            "<eos>",
            "a",
            "good",
            "bad",
            "film",
            "yes",
            "no",
            "?",
            "user",
            "assistant",
            "<|im_start|>",
            "<|im_end|>",
        ];
        let vocabulary: serde_json::Map<String, Value> =
            words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
        let marks: Vec<Value> = [(11, "<|im_start|>"), (12, "<|im_end|>")]
            .into_iter()
            .map(|(id, content)| {
                serde_json::json!({
                    "id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
                    "rstrip": rstrip, "normalized": false,
                })
            })
            .collect();
        let definition = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": marks, "normalizer": null,
            "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
        });
        let tokenizer = Tokenizer::from_bytes(definition.to_string().as_bytes()).unwrap();
        let eos = EndOfText::Token { id: 1, note: None };
        Encoder { tokenizer: Some(tokenizer), eos, vocabulary: words.len() }
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
    fn the_end_of_an_answer_is_learnt_whatever_blanks_its_mark_takes_in() {
        let row = r#"{"instruction": "good ?", "output": "yes"}"#;
        let dir = files(&[("t.jsonl", row), ("v.json", &format!("[{row}]"))]);
        let task = "name = \"x\"\nkind = \"instruction\"\ntemplate = \"chat\"\ntrain = \"t.jsonl\"\nvalidation = \"v.json\"\n";
        for takes in [false, true] {
            let data = toml::from_str::<TaskSpec>(task).unwrap().load(dir.path(), &words(takes)).unwrap();
            let Target::Tokens(labels) = &data.train.examples[0].target else { panic!("tokens") };
            let counted: Vec<i64> = labels.iter().copied().filter(|label| *label >= 0).collect();
            assert_eq!(counted, [6, 12], "rstrip = {takes}");
        }
    }

    #[test]
    fn data_are_others_where_their_segments_are() {
        let split = |segments: [u32; 2]| {
            let (input_ids, token_type_ids) = (vec![2, 3], segments.to_vec());
            [Split { examples: vec![Example { input_ids, token_type_ids, target: Target::Class(0) }] }]
        };
        assert_eq!(digest(&split([0, 1])), digest(&split([0, 1])));
        assert_ne!(digest(&split([0, 1])), digest(&split([0, 0])));
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
