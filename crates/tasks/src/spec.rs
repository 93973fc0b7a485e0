use std::path::{Path, PathBuf};

use peftlab_metrics::Metric;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kinds of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// A class for a text or a pair of texts.
    Classification,
    /// A number for a text or a pair of texts.
    Regression,
    /// The next token of running text.
    CausalLm,
    /// The next token of an answer to an instruction.
    Instruction,
}

impl TaskKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Classification, Self::Regression, Self::CausalLm, Self::Instruction];

    /// Its name in experiment files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::Regression => "regression",
            Self::CausalLm => "causal-lm",
            Self::Instruction => "instruction",
        }
    }

    /// What it is, in a sentence.
    pub fn description(self) -> &'static str {
        match self {
            Self::Classification => {
                "a class for a text or a pair of texts, from TSV, CSV, JSON, JSONL or Parquet"
            }
            Self::Regression => "a number for a text or a pair of texts, from the same formats",
            Self::CausalLm => "the next token of running text, from the same formats or plain text",
            Self::Instruction => {
                "the answer to an instruction, from Alpaca's fields or chat turns; loss on the answer alone"
            }
        }
    }

    pub(crate) fn default_metrics(self) -> Vec<Metric> {
        match self {
            Self::Classification => vec![Metric::Accuracy],
            Self::Regression => vec![Metric::Pearson],
            Self::CausalLm | Self::Instruction => vec![Metric::Perplexity],
        }
    }

    pub(crate) fn allows(self, metric: Metric) -> bool {
        use Metric::{Accuracy, F1, Loss, MacroF1, Matthews, Mse, Pearson, Perplexity, Spearman};
        match self {
            Self::Classification => matches!(metric, Accuracy | F1 | MacroF1 | Matthews),
            Self::Regression => matches!(metric, Pearson | Spearman | Mse),
            Self::CausalLm | Self::Instruction => matches!(metric, Perplexity | Loss),
        }
    }
}

/// `[[task]]`: a data set, how its rows become examples, and how answers are scored. What files and rows are read and
/// refused is in `docs/data.md`. A key that a kind of task does not read is refused there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// Names the table's column; no two tasks may share it.
    pub name: String,
    /// What is predicted from what.
    pub kind: TaskKind,
    /// The split to learn from.
    pub train: SplitSpec,
    /// The split to choose by: the best step, early stopping, the learning rate of a search.
    pub validation: SplitSpec,
    /// The split to be read once, after training. Without it tables show scores on validation, and say so.
    pub test: Option<SplitSpec>,
    /// Which columns of the files hold what.
    #[serde(default)]
    pub columns: Columns,
    /// Whether a TSV or CSV file begins with the names of its columns.
    #[serde(default = "yes")]
    pub header: bool,
    /// Whether quotation marks enclose fields of a TSV or CSV file. Without it they do in CSV and not in TSV.
    pub quotes: Option<bool>,
    /// Whether the two characters `\n` in a text stand for a line break.
    #[serde(default)]
    pub unescape: bool,
    /// Names of a classification's classes, as they stand in the label's column; the first is class 0. Without them
    /// labels are integers from 0.
    pub labels: Option<Vec<String>>,
    /// Smallest and largest label of a regression: one outside is refused. Labels are not rescaled.
    pub range: Option<[f32; 2]>,
    /// Longest example in tokens, special ones included, from 2 to 2^24; also the length of a block of packed text and of a
    /// random row.
    #[serde(default = "default_length")]
    pub max_length: usize,
    /// What becomes of an example that is longer than `max_length`; how many there are is said in any case.
    #[serde(default)]
    pub too_long: TooLong,
    /// Whether running text (`causal-lm`) is cut into blocks of `max_length` across documents; if not, each document is an
    /// example of its own.
    #[serde(default = "yes")]
    pub packing: bool,
    /// How an instruction and its answer become text (`instruction`).
    #[serde(default)]
    pub template: Template,
    /// Whether a language model with virtual tokens in front (prompt tuning) is scored on the first token of a row, too, as
    /// in PEFT. By default it is not, for no other method could predict that token.
    #[serde(default)]
    pub score_first_token: bool,
    /// What is computed, the main metric first: tables show it, and a search chooses by it. Without it `accuracy` for
    /// classification, `pearson` for regression, `perplexity` for language models. Classification allows `accuracy`, `f1`,
    /// `macro-f1`, `matthews`; regression `pearson`, `spearman`, `mse`; language models `perplexity`, `loss`.
    pub metrics: Option<Vec<Metric>>,
}

fn yes() -> bool {
    true
}

fn default_length() -> usize {
    128
}

/// What becomes of an example above `max_length`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// Its end is cut off; of a pair of texts that of the longer one.
    #[default]
    Cut,
    /// It is left out.
    Drop,
    /// Nothing is run.
    Refuse,
}

/// How instructions become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Template {
    /// Stanford Alpaca's prompt (Taori et al. 2023).
    #[default]
    Alpaca,
    /// Turns in ChatML; needs a tokenizer with `<|im_start|>` and `<|im_end|>`.
    Chat,
}

/// Where a split's rows are. Paths start from the experiment file's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "give a file or folder (\"train.tsv\"), a list of them, { path = \"..\", skip = 0, take = 100 } with no \
                 other keys, or { random_rows = 8 }"
)]
#[schemars(title = "Splits")]
pub enum SplitSpec {
    /// A file, or a folder with the split's shards as on the Hub.
    Path(PathBuf),
    /// Several files of one kind, one after the other.
    Paths(Vec<PathBuf>),
    /// Some rows of a file.
    Rows(Rows),
    /// Rows of `max_length` tokens, each drawn from the network's vocabulary with equal chances: for measuring time and
    /// memory of a language model.
    Random(RandomRows),
}

/// Rows of `max_length` tokens, each drawn from the network's vocabulary with equal chances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomRows {
    /// Number of rows; times `max_length` at most 2^23.
    pub random_rows: usize,
}

/// Some rows of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// The file, or the folder.
    pub path: PathBuf,
    /// Rows to leave out first.
    #[serde(default)]
    pub skip: usize,
    /// Rows to take after those; without it all that are left.
    pub take: Option<usize>,
}

impl SplitSpec {
    /// The paths, rows to skip and rows to take.
    pub(crate) fn parts(&self) -> (Vec<&Path>, usize, usize) {
        match self {
            Self::Path(path) => (vec![path], 0, usize::MAX),
            Self::Paths(paths) => (paths.iter().map(PathBuf::as_path).collect(), 0, usize::MAX),
            Self::Rows(rows) => (vec![&rows.path], rows.skip, rows.take.unwrap_or(usize::MAX)),
            Self::Random(_) => (Vec::new(), 0, usize::MAX),
        }
    }
}

/// A column, by its name or its place from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "give a column's name, or its place from 0")]
pub enum Column {
    /// Its place from 0.
    Index(usize),
    /// Its name.
    Name(String),
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Which columns of the files hold what. A column is given by its name, or by its place from 0 in TSV, CSV and Parquet.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// The text (all kinds but `instruction`).
    pub text: Column,
    /// The second text of a pair (`classification`, `regression`); without it there is one text.
    pub text_b: Option<Column>,
    /// The class or the value (`classification`, `regression`).
    pub label: Column,
    /// The instruction (`instruction`).
    pub instruction: Column,
    /// What goes with the instruction (`instruction`); may be empty, and where it has this name may be missing.
    pub input: Column,
    /// The answer that is learnt (`instruction`).
    pub output: Column,
    /// A list of chat turns in place of those three (`instruction` with `template = "chat"`).
    pub messages: Option<Column>,
}

impl Default for Columns {
    fn default() -> Self {
        let name = |name: &str| Column::Name(name.to_owned());
        Self {
            text: name("text"),
            text_b: None,
            label: name("label"),
            instruction: name("instruction"),
            input: name("input"),
            output: name("output"),
            messages: None,
        }
    }
}

impl TaskSpec {
    /// The columns that every row must have.
    pub(crate) fn read_columns(&self) -> Vec<&Column> {
        let columns = &self.columns;
        match (self.kind, &columns.messages) {
            (TaskKind::Classification | TaskKind::Regression, _) => {
                [Some(&columns.text), columns.text_b.as_ref(), Some(&columns.label)]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            (TaskKind::CausalLm, _) => vec![&columns.text],
            (TaskKind::Instruction, Some(messages)) => vec![messages],
            (TaskKind::Instruction, None) => {
                let input = (columns.input != Columns::default().input).then_some(&columns.input);
                [Some(&columns.instruction), Some(&columns.output), input].into_iter().flatten().collect()
            }
        }
    }

    /// Columns that are read where a row has them.
    pub(crate) fn optional_columns(&self) -> Option<&Column> {
        (self.kind == TaskKind::Instruction && self.columns.messages.is_none()).then_some(&self.columns.input)
    }

    /// Whether a column of this name is no part of the template, and changes what the model should see.
    pub(crate) fn looks_at(&self, name: &str) -> bool {
        self.kind == TaskKind::Instruction && self.outside_template().any(|own| own == name)
    }

    /// Columns that hold a part of the prompt for which the template has no place.
    pub(crate) fn outside_template(&self) -> impl Iterator<Item = &'static str> {
        let fields = self.columns.messages.is_none();
        OUTSIDE_TEMPLATE.into_iter().chain(fields.then_some("context"))
    }
}

/// Such columns of Alpaca-like and ShareGPT-like files (LLaMA-Factory's `data/README.md`), of OpenOrca
/// (`system_prompt`), and of files with pictures and sounds; Dolly has `context` besides.
const OUTSIDE_TEMPLATE: [&str; 14] = [
    "system",
    "system_prompt",
    "system_message",
    "history",
    "chat_history",
    "tools",
    "functions",
    "documents",
    "image",
    "images",
    "video",
    "videos",
    "audio",
    "audios",
];
