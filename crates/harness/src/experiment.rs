//! The experiment file, as written.

use std::ops::Range;
use std::path::{Path, PathBuf};

use peftlab_peft::{DynMethod, Registry};
use peftlab_tasks::TaskSpec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Spanned;

use crate::error::HarnessError;
use crate::optimizer::{OptimizerSpec, Schedule};
use crate::plan::plain;
use crate::search::SearchSpec;

/// An experiment: one model, some tasks, some methods, some seeds.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// Names the results folder.
    pub name: String,
    /// The file it was read from.
    pub path: PathBuf,
    /// `cpu`, `cuda:N` or `auto`.
    pub device: String,
    /// Cells that run at the same time, each with its share of the threads. With more than one, times are
    /// those of runs that share the machine.
    pub jobs: usize,
    /// One run for each.
    pub seeds: Vec<u64>,
    /// The model.
    pub model: ModelSpec,
    /// What all methods share.
    pub training: TrainingSpec,
    /// How the learning rate is searched; none where it is given.
    pub search: Option<SearchSpec>,
    /// The tasks, in the order of the table's columns.
    pub tasks: Vec<TaskSpec>,
    /// The methods, in the order of the table's rows.
    pub methods: Vec<MethodSpec>,
}

/// `[model]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// A folder in the Hub's layout, a GGUF file, or `hub:owner/name@revision`; with random weights a folder
    /// with a `config.json`, or that file.
    pub source: String,
    /// A `tokenizer.json`, in place of the source's own.
    pub tokenizer: Option<String>,
    /// The token that ends a text, where the model's files do not say which one that is.
    pub eos_token: Option<String>,
    /// What tables call it; the source's last part if absent.
    pub name: Option<String>,
    /// Where its values come from.
    #[serde(default)]
    pub weights: WeightsSpec,
    /// Element type of the frozen weights and of activations.
    #[serde(default)]
    pub dtype: DtypeSpec,
    /// What becomes of a sequence task's head that the checkpoint has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub head: HeadSpec,
    /// Keys of `config.json` to change, such as dropout probabilities.
    #[serde(default)]
    pub config: serde_json::Map<String, Value>,
}

/// Where a model's values come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsSpec {
    /// A checkpoint.
    #[default]
    Pretrained,
    /// Drawn from the seed.
    Random,
}

fn is_default(head: &HeadSpec) -> bool {
    *head == HeadSpec::default()
}

/// Where the head of a sequence task comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadSpec {
    /// The checkpoint, where it has one.
    #[default]
    Checkpoint,
    /// It is drawn from the seed.
    New,
}

/// Element type of frozen weights and activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DtypeSpec {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
}

/// Whose weights a run keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Those of the look at the validation set with the lowest loss; `transformers`' `load_best_model_at_end`.
    #[default]
    Best,
    /// Those of the last step, as `transformers` does unless told otherwise.
    Last,
}

/// `[training]`; a method may change any of it in its own table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingSpec {
    /// Passes over the training set; give this or `steps`.
    pub epochs: Option<usize>,
    /// Optimizer steps.
    pub steps: Option<usize>,
    /// Examples in a forward pass.
    pub batch_size: usize,
    /// Forward passes in an optimizer step; the loss is the mean over all their tokens or rows.
    pub gradient_accumulation: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Its course after the warm-up.
    pub schedule: Schedule,
    /// Share of the steps in which it rises.
    pub warmup_ratio: f64,
    /// Steps in which it rises, in place of the share.
    pub warmup_steps: Option<usize>,
    /// The optimizer.
    pub optimizer: OptimizerSpec,
    /// Whether weight decay acts on biases and on the weights of norms, too, as torch's optimizers do by themselves;
    /// `transformers`' `Trainer` leaves them out.
    pub decay_biases_and_norms: bool,
    /// Largest global norm of the gradients; absent for no clipping.
    pub max_grad_norm: Option<f64>,
    /// Batches of similar lengths are made from this many batches at a time; 0 for none.
    pub length_buckets: usize,
    /// Steps between looks at the validation set; absent for one at the end.
    pub evaluate_every: Option<usize>,
    /// Looks without an improvement after which training stops.
    pub patience: Option<usize>,
    /// Whose weights are scored and saved where `evaluate_every` looks at validation.
    pub keep: Keep,
    /// Whether the validation loss is measured before the first step, too.
    pub evaluate_start: bool,
    /// Whether the validation loss of the merged model is measured, too, where the method can be merged.
    pub evaluate_merged: bool,
    /// Examples in a forward pass of an evaluation.
    pub evaluate_batch_size: usize,
    /// Steps left out of the timing, for the first ones are slower.
    pub timing_warmup_steps: usize,
    /// Whether every kernel that the device runs after the timing warm-up is timed, too. That makes steps slower.
    pub profile_kernels: bool,
}

impl Default for TrainingSpec {
    fn default() -> Self {
        Self {
            epochs: None,
            steps: None,
            batch_size: 16,
            gradient_accumulation: 1,
            learning_rate: 1e-4,
            schedule: Schedule::Linear,
            warmup_ratio: 0.0,
            warmup_steps: None,
            optimizer: OptimizerSpec::default(),
            decay_biases_and_norms: true,
            max_grad_norm: Some(1.0),
            length_buckets: 20,
            evaluate_every: None,
            patience: None,
            keep: Keep::default(),
            evaluate_start: true,
            evaluate_merged: false,
            evaluate_batch_size: 64,
            timing_warmup_steps: 3,
            profile_kernels: false,
        }
    }
}

impl TrainingSpec {
    /// What no single setting shows.
    ///
    /// # Errors
    /// What is wrong, with the remedy.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("batch_size", self.batch_size),
            ("gradient_accumulation", self.gradient_accumulation),
            ("evaluate_batch_size", self.evaluate_batch_size),
            ("epochs", self.epochs.unwrap_or(1)),
            ("steps", self.steps.unwrap_or(1)),
            ("evaluate_every", self.evaluate_every.unwrap_or(1)),
            ("patience", self.patience.unwrap_or(1)),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{key} is 0; it must be 1 or more"));
        }
        if self.epochs.is_some() == self.steps.is_some() {
            return Err("give either epochs or steps".to_owned());
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return Err(format!("learning_rate is {}; it must be above 0", self.learning_rate));
        }
        if !(0.0..=1.0).contains(&self.warmup_ratio) {
            return Err(format!(
                "warmup_ratio is {}; it is a share of the steps, from 0 to 1",
                self.warmup_ratio
            ));
        }
        if self.patience.is_some() && self.evaluate_every.is_none() {
            return Err("patience counts looks at the validation set; give evaluate_every, too".to_owned());
        }
        if self.keep == Keep::Last && self.evaluate_every.is_none() {
            return Err(
                "keep = \"last\" is about looks at the validation set; give evaluate_every, too".to_owned()
            );
        }
        self.optimizer.check()?;
        match self.max_grad_norm {
            Some(limit) if !(limit.is_finite() && limit > 0.0) => {
                Err(format!("max_grad_norm is {limit}; it must be above 0 (1e38 clips nothing)"))
            }
            _ => Ok(()),
        }
    }
}

/// `[[method]]`
#[derive(Clone, Debug)]
pub struct MethodSpec {
    /// The row's label.
    pub label: String,
    /// The method with its settings.
    pub method: Box<dyn DynMethod>,
    /// Training, with the method's own changes.
    pub training: TrainingSpec,
}

/// The file's outer form; what is inside is read piece by piece, so that every mistake can be told.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default = "default_device")]
    device: String,
    #[serde(default = "default_jobs")]
    jobs: usize,
    #[serde(default = "default_seeds")]
    seeds: Vec<u64>,
    model: Spanned<toml::Table>,
    training: Option<Spanned<toml::Table>>,
    search: Option<Spanned<toml::Table>>,
    #[serde(default)]
    task: Vec<Spanned<toml::Table>>,
    #[serde(default)]
    method: Vec<Spanned<toml::Table>>,
}

const FILE_KEYS: [&str; 9] =
    ["name", "device", "jobs", "seeds", "model", "training", "search", "task", "method"];

/// What file systems allow is 255 bytes, for all parts of a name.
const LONGEST_NAME: usize = 80;

fn default_device() -> String {
    "auto".to_owned()
}

fn default_jobs() -> usize {
    1
}

fn default_seeds() -> Vec<u64> {
    vec![0]
}

impl Experiment {
    /// Reads the experiment file at `path`.
    ///
    /// # Errors
    /// Where it cannot be read, or with every mistake in it.
    pub fn read(path: &Path, registry: &Registry) -> Result<Self, HarnessError> {
        let bytes = std::fs::read(path).map_err(|error| HarnessError::read(path, &error))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            HarnessError::input(path, format!("is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
        })?;
        Reader { path, text: &text, mistakes: Vec::new() }.read(registry)
    }

    /// The folder that relative paths in the file start from.
    pub fn base(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    mistakes: Vec<String>,
}

impl Reader<'_> {
    fn read(mut self, registry: &Registry) -> Result<Experiment, HarnessError> {
        let file: File = match toml::from_str(self.text) {
            Ok(file) => file,
            Err(error) => {
                let message = with_hint(error.message(), &FILE_KEYS);
                self.mistake(error.span().unwrap_or(0..0), &message);
                return Err(HarnessError::Experiment { mistakes: self.mistakes });
            }
        };
        let model: Option<ModelSpec> = self.table(&file.model, "[model]");
        let training: Option<TrainingSpec> = match &file.training {
            Some(table) => self.table(table, "[training]"),
            None => Some(TrainingSpec::default()),
        };
        // what is wrong there is told once, and not again for each method
        let shared = file.training.as_ref().filter(|_| training.is_some());
        let shared = shared.map_or_else(toml::Table::new, |table| table.get_ref().clone());
        let search = file.search.as_ref().and_then(|table| self.search(table));
        let tasks: Vec<TaskSpec> =
            file.task.iter().filter_map(|table| self.table(table, "[[task]]")).collect();
        let methods: Vec<MethodSpec> =
            file.method.iter().filter_map(|table| self.method(table, &shared, registry)).collect();
        self.whole(&file, &tasks, &methods);
        match (model, training, self.mistakes.is_empty()) {
            (Some(model), Some(training), true) => Ok(Experiment {
                name: file.name,
                path: self.path.to_owned(),
                device: file.device,
                jobs: file.jobs,
                seeds: file.seeds,
                model,
                training,
                search,
                tasks,
                methods,
            }),
            _ => Err(HarnessError::Experiment { mistakes: self.mistakes }),
        }
    }

    /// What no table shows by itself.
    fn whole(&mut self, file: &File, tasks: &[TaskSpec], methods: &[MethodSpec]) {
        if file.name.is_empty() || !file.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            let name = &file.name;
            self.mistake_at_key(
                0..self.text.len(),
                "name",
                &format!("name `{name}` names the results folder: use letters, digits, `-`, `_` and `.`"),
            );
        }
        if file.seeds.is_empty() {
            self.mistake_at_key(
                0..self.text.len(),
                "seeds",
                "seeds is empty; give at least one, such as [0]",
            );
        }
        if file.jobs == 0 {
            self.mistake_at_key(0..self.text.len(), "jobs", "jobs is 0; it must be 1 or more");
        }
        for (tables, what) in [(&file.task, "[[task]]"), (&file.method, "[[method]]")] {
            if tables.is_empty() {
                self.mistake(0..0, &format!("there is no {what}; give at least one"));
            }
        }
        let labels = methods.iter().map(|method| method.label.as_str());
        let names = tasks.iter().map(|task| task.name.as_str());
        if let Some(label) = repeated(labels) {
            self.mistake(
                0..0,
                &format!("two methods are labelled `{label}`; tell them apart with `label = \"..\"`"),
            );
        }
        if let Some(name) = repeated(names) {
            self.mistake(0..0, &format!("two tasks are named `{name}`; give each its own name"));
        }
        if let Some(seed) = repeated(file.seeds.iter()) {
            // the same run twice would pass for a spread of 0
            let message = format!("seeds has {seed} twice; name each once");
            self.mistake_at_key(0..self.text.len(), "seeds", &message);
        }
        self.file_names(tasks, methods);
    }

    /// Names of tasks and labels stand in names of files.
    fn file_names(&mut self, tasks: &[TaskSpec], methods: &[MethodSpec]) {
        let names = tasks.iter().map(|task| ("task", &task.name));
        for (what, name) in names.chain(methods.iter().map(|method| ("label", &method.label))) {
            if plain(name).is_empty() || name.len() > LONGEST_NAME {
                let message = format!(
                    "the {what} `{name}` stands in names of files: give it letters or digits, and at most {LONGEST_NAME} bytes"
                );
                self.mistake(0..0, &message);
            }
        }
        for (i, task) in tasks.iter().enumerate() {
            let same = |other: &&TaskSpec| other.name != task.name && plain(&other.name) == plain(&task.name);
            if let Some(other) = tasks[..i].iter().find(same) {
                self.mistake(
                    0..0,
                    &format!(
                        "the tasks `{}` and `{}` differ in signs alone that names of files lack, so that one's records \
                         would take the other's place; give one another name",
                        other.name, task.name
                    ),
                );
            }
        }
    }

    fn search(&mut self, table: &Spanned<toml::Table>) -> Option<SearchSpec> {
        let search: SearchSpec = self.table(table, "[search]")?;
        if let Err(message) = search.check() {
            self.mistake_at_key(table.span(), "learning_rate", &format!("[search]: {message}"));
        }
        Some(search)
    }

    fn method(
        &mut self,
        table: &Spanned<toml::Table>,
        shared: &toml::Table,
        registry: &Registry,
    ) -> Option<MethodSpec> {
        let span = table.span();
        let mut settings = table.get_ref().clone();
        let Some(name) = settings.remove("name") else {
            self.mistake(span, "[[method]] has no `name`; `bench list methods` shows what there is");
            return None;
        };
        let toml::Value::String(name) = name else {
            self.mistake_at_key(span, "name", "`name` must be a string, such as name = \"lora\"");
            return None;
        };
        let label = match settings.remove("label") {
            None => None,
            Some(toml::Value::String(label)) if !label.trim().is_empty() => Some(label),
            Some(_) => {
                self.mistake_at_key(span, "label", "`label` must be a string that is not empty");
                return None;
            }
        };
        let mut training = shared.clone();
        match settings.remove("training") {
            None => {}
            Some(toml::Value::Table(own)) => {
                // the number of steps is one setting in two forms
                if own.contains_key("steps") || own.contains_key("epochs") {
                    training.retain(|key, _| key != "steps" && key != "epochs");
                }
                training.extend(own);
            }
            Some(_) => {
                self.mistake_at_key(
                    span,
                    "training",
                    "`training` must be a table, such as { learning_rate = 1e-3 }",
                );
                return None;
            }
        }
        let training: Option<TrainingSpec> = self.table_in(training, span.clone(), "training");
        let entry = match registry.get(&name) {
            Ok(entry) => entry,
            Err(error) => {
                self.mistake_at_key(span, "name", &error.to_string());
                return None;
            }
        };
        let settings = serde_json::to_value(settings).unwrap_or_default();
        match entry.parse(settings) {
            Ok(method) => Some(MethodSpec {
                label: label.unwrap_or_else(|| method.label()),
                method,
                training: training?,
            }),
            Err(error) => {
                let message = format!("method `{name}`: {error}");
                match &error.key {
                    Some(key) => self.mistake_at_key(span, key, &message),
                    None => self.mistake(span, &message),
                }
                None
            }
        }
    }

    fn table<T: DeserializeOwned>(&mut self, table: &Spanned<toml::Table>, what: &str) -> Option<T> {
        self.table_in(table.get_ref().clone(), table.span(), what)
    }

    fn table_in<T: DeserializeOwned>(
        &mut self,
        table: toml::Table,
        span: Range<usize>,
        what: &str,
    ) -> Option<T> {
        match serde_path_to_error::deserialize(toml::Value::Table(table)) {
            Ok(value) => Some(value),
            Err(error) => {
                let path = error.path().to_string();
                let text = error.inner().message().to_owned();
                let unknown = text.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
                let key = unknown.map_or(path.as_str(), |(key, _)| key);
                let key = key.split('.').next_back().unwrap_or(key).to_owned();
                let at = if path == "." || unknown.is_some() { String::new() } else { format!(" `{path}`") };
                let message = format!("{what}{at}: {}", with_hint(&text, &[]));
                self.mistake_at_key(span, &key, &message);
                None
            }
        }
    }

    fn mistake(&mut self, span: Range<usize>, message: &str) {
        let line = self.text[..span.start.min(self.text.len())].matches('\n').count() + 1;
        self.mistakes.push(format!("{}:{line}: {message}", self.path.display()));
    }

    /// A mistake at the line of `key` within `span`, a table and what follows its header.
    fn mistake_at_key(&mut self, span: Range<usize>, key: &str, message: &str) {
        let rest = &self.text[span.start.min(self.text.len())..];
        let mut offset = span.start;
        let mut lines = rest.split_inclusive('\n').enumerate();
        let found = lines.find_map(|(number, line)| {
            let start = offset;
            offset += line.len();
            let here = line.trim_start();
            let other_table = number > 0 && here.starts_with("[[");
            let names_key = here.strip_prefix(key).is_some_and(|after| after.trim_start().starts_with('='))
                || line.contains(&format!("{key} ="))
                || line.contains(&format!("{key}="));
            (names_key && !other_table).then_some(start)
        });
        let start = found.unwrap_or(span.start);
        self.mistake(start..start, message);
    }
}

fn repeated<T: Copy + Eq + std::hash::Hash>(mut names: impl Iterator<Item = T>) -> Option<T> {
    let mut seen = std::collections::HashSet::new();
    names.find(|name| !seen.insert(*name))
}

/// Serde's text for an unknown key, with the nearest of those it expected.
fn with_hint(message: &str, keys: &[&str]) -> String {
    let parse = || {
        let (key, rest) = message.strip_prefix("unknown field `")?.split_once('`')?;
        let expected: Vec<&str> = match keys {
            [] => rest.split('`').skip(1).step_by(2).collect(),
            keys => keys.to_vec(),
        };
        let similar = |other: &&str| strsim::jaro_winkler(key, other);
        let best = *expected.iter().max_by(|a, b| similar(a).total_cmp(&similar(b)))?;
        let hint = if similar(&best) > 0.7 { format!("; did you mean `{best}`?") } else { String::new() };
        Some(format!("there is no key `{key}`{hint} (there are {})", expected.join(", ")))
    };
    parse().unwrap_or_else(|| message.to_owned())
}
