//! What a folder of data holds: splits by the names of files, columns by theirs, and what the labels are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use peftlab_tasks::{Look, TaskKind, is_data_file, look};
use serde_json::{Map, Value};

/// Names of columns that data sets use for one thing, the usual first.
const TEXT: [&str; 14] = [
    "text",
    "sentence",
    "sentence1",
    "premise",
    "question1",
    "text_a",
    "review",
    "content",
    "comment",
    "tweet",
    "body",
    "question",
    "document",
    "title",
];
const TEXT_B: [&str; 6] = ["sentence2", "hypothesis", "question2", "text_b", "text2", "passage"];
const LABEL: [&str; 12] = [
    "label",
    "labels",
    "class",
    "target",
    "score",
    "rating",
    "stars",
    "category",
    "sentiment",
    "intent",
    "gold_label",
    "similarity",
];
const INSTRUCTION: [&str; 4] = ["instruction", "prompt", "question", "query"];
const OUTPUT: [&str; 6] = ["output", "response", "completion", "answer", "chosen", "target"];
const MESSAGES: [&str; 3] = ["messages", "conversations", "conversation"];
/// What a classification has at most: more values are no classes.
const MOST_CLASSES: usize = 200;

/// Files of a split.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Split {
    pub(super) files: Vec<PathBuf>,
}

/// What a task can be made of.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kind: TaskKind,
    /// What speaks for the kind, in words.
    pub(super) because: String,
    pub(super) train: Split,
    pub(super) train_rows: usize,
    pub(super) validation: Option<Split>,
    pub(super) test: Option<Split>,
    /// Keys of `columns` with the columns' names, where these are not the usual ones.
    pub(super) columns: Vec<(&'static str, String)>,
    /// Names of the classes, where they are no numbers from 0.
    pub(super) labels: Option<Vec<String>>,
    pub(super) chat: bool,
    /// Files that are not used, and why.
    pub(super) left_out: Vec<String>,
}

impl Found {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let mut files: Vec<PathBuf> = Vec::new();
        for folder in [dir.to_owned(), dir.join("data")] {
            let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
            files.extend(entries.map(|entry| entry.path()).filter(|path| is_data_file(path)));
        }
        files.sort();
        let mut left_out = Vec::new();
        let mut split = |words: &[&str]| {
            let all: Vec<PathBuf> = files.iter().filter(|path| is_named(path, words)).cloned().collect();
            parts(all, &mut left_out)
        };
        let train = split(&["train", "training"]);
        let validation = split(&["validation", "valid", "val", "dev", "eval"]);
        let test = split(&["test"]);
        let train = match (train, files.as_slice()) {
            (Some(train), _) => train,
            (None, [only]) => Split { files: vec![only.clone()] },
            (None, []) => {
                bail!("{}: holds no file of data: .tsv, .csv, .jsonl, .json, .parquet or .txt", dir.display())
            }
            (None, _) => bail!(
                "{}: which of its {} files is to be learnt from? name it train.tsv or the like",
                dir.display(),
                files.len()
            ),
        };
        let seen = look(&train.files[0])?;
        let mut found = Self {
            kind: TaskKind::CausalLm,
            because: String::new(),
            train_rows: seen.rows.len(),
            train,
            validation,
            test: None,
            columns: Vec::new(),
            labels: None,
            chat: false,
            left_out,
        };
        found.understand(&seen)?;
        if let Some(test) = test {
            match found.missing_in(&test.files[0]) {
                None => found.test = Some(test),
                Some(why) => found.left_out.push(format!("{} ({why})", shown(&test.files[0]))),
            }
        }
        Ok(found)
    }

    /// Finds the kind of the task and its columns.
    fn understand(&mut self, seen: &Look) -> Result<()> {
        let named = |names: &[&str]| {
            let same =
                |name: &&&str| seen.columns.iter().position(|column| column.eq_ignore_ascii_case(name));
            names.iter().find_map(|name| same(&name)).map(|place| seen.columns[place].clone())
        };
        let lists =
            |name: &String| seen.rows.first().is_some_and(|row| row.get(name).is_some_and(Value::is_array));
        if let Some(messages) = named(&MESSAGES).filter(lists) {
            (self.kind, self.chat) = (TaskKind::Instruction, true);
            self.because = format!("chat turns in `{messages}`");
            self.columns = vec![("messages", messages)];
            return Ok(());
        }
        if let (Some(instruction), Some(output)) = (named(&INSTRUCTION), named(&OUTPUT)) {
            self.kind = TaskKind::Instruction;
            self.because = format!("instructions in `{instruction}` and answers in `{output}`");
            self.column("instruction", instruction);
            self.column("output", output);
            return Ok(());
        }
        let label = named(&LABEL);
        let longest = || {
            let others = seen.columns.iter().filter(|name| Some(*name) != label.as_ref());
            others.filter(|name| letters(seen, name) > 0).max_by_key(|name| letters(seen, name)).cloned()
        };
        let Some(text) = named(&TEXT).or_else(longest) else {
            bail!("no column holds texts; there are {}", seen.columns.join(", "))
        };
        let Some(label) = label else {
            self.because = format!("texts in `{text}`, and no column that is called a label");
            self.column("text", text);
            return Ok(());
        };
        self.because = format!("texts in `{text}` and {} in `{label}`", self.kind_of(seen, &label)?);
        self.column("text", text);
        self.columns.extend(named(&TEXT_B).map(|text| ("text_b", text)));
        self.column("label", label);
        Ok(())
    }

    /// Names a column that is not called as its key is.
    fn column(&mut self, key: &'static str, name: String) {
        if name != key {
            self.columns.push((key, name));
        }
    }

    /// What the labels are, in words.
    fn kind_of(&mut self, seen: &Look, label: &str) -> Result<String> {
        let values: BTreeSet<String> = seen.rows.iter().filter_map(|row| word(row, label)).collect();
        let numbers: Option<Vec<f64>> = values.iter().map(|value| value.parse().ok()).collect();
        let whole = |numbers: &Vec<f64>| numbers.iter().all(|number| number.fract() == 0.0);
        let from_0 = (0..values.len()).all(|class| values.contains(&class.to_string()));
        match numbers {
            Some(numbers) if !whole(&numbers) || numbers.len() > MOST_CLASSES => {
                self.kind = TaskKind::Regression;
                Ok("numbers".to_owned())
            }
            _ if values.len() > MOST_CLASSES => {
                bail!("`{label}` has {} values in the training set, too many for classes", values.len())
            }
            _ => {
                self.kind = TaskKind::Classification;
                let count = values.len();
                if !from_0 && !values.iter().all(|value| value == "true" || value == "false") {
                    self.labels = Some(values.into_iter().collect());
                }
                Ok(format!("{count} classes"))
            }
        }
    }

    /// Why the file cannot be tested on: those of many a benchmark hold no answers.
    fn missing_in(&self, path: &Path) -> Option<String> {
        let seen = match look(path) {
            Ok(seen) => seen,
            Err(error) => return Some(error.to_string()),
        };
        let name = |key: &'static str| {
            self.columns.iter().find(|(own, _)| *own == key).map_or(key, |(_, name)| name)
        };
        let needed = match self.kind {
            TaskKind::Classification | TaskKind::Regression => vec![name("text"), name("label")],
            TaskKind::CausalLm => vec![name("text")],
            TaskKind::Instruction if self.chat => vec![name("messages")],
            TaskKind::Instruction => vec![name("instruction"), name("output")],
        };
        if let Some(missing) =
            needed.into_iter().find(|name| !seen.columns.iter().any(|column| column == name))
        {
            return Some(format!("it has no column `{missing}`"));
        }
        let hidden = |row: &Map<String, Value>| word(row, name("label")).is_none_or(|value| value == "-1");
        let answers = self.kind == TaskKind::Classification && seen.rows.iter().all(hidden);
        answers.then(|| "its labels are hidden".to_owned())
    }
}

/// A label as it stands in the file.
fn word(row: &Map<String, Value>, column: &str) -> Option<String> {
    match row.get(column)? {
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
        value => Some(value.to_string()),
    }
}

/// Letters of the texts in a column's first rows.
fn letters(seen: &Look, column: &str) -> usize {
    let texts = seen.rows.iter().take(100).filter_map(|row| row.get(column)?.as_str());
    texts.filter(|text| text.parse::<f64>().is_err()).map(str::len).sum()
}

fn shown(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether one of `words` is a word of the file's name.
fn is_named(path: &Path, words: &[&str]) -> bool {
    let name = shown(path).to_lowercase();
    name.split(|c: char| !c.is_alphanumeric()).any(|word| words.contains(&word))
}

/// The parts of one split, as the Hub numbers them; of other files the first.
fn parts(mut files: Vec<PathBuf>, left_out: &mut Vec<String>) -> Option<Split> {
    if !files.iter().all(|path| shown(path).contains("-of-")) {
        let others = files.split_off(1.min(files.len()));
        left_out
            .extend(others.iter().map(|path| format!("{} (another of that name was taken)", shown(path))));
    }
    (!files.is_empty()).then_some(Split { files })
}
