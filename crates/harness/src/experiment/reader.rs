//! From the file's text to an [`Experiment`], or to every mistake in it with its line.

use std::ops::Range;
use std::path::Path;

use peftlab_peft::Registry;
use peftlab_tasks::TaskSpec;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;

use super::{Experiment, MethodSpec, ModelSpec, SearchSpec, TrainingSpec, plain};
use crate::error::HarnessError;

// What is inside the tables is read piece by piece, so that every mistake can be told.
/// An experiment file: one model, some tasks, some methods, some seeds.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Names the experiment and its results folder, `results/NAME`: letters, digits, `-`, `_` and `.`.
    name: String,
    /// `"cpu"`, `"cuda:0"` (or another number), or `"auto"`: the first GPU where the program was built for one and finds
    /// one, else the processor.
    #[serde(default = "default_device")]
    device: String,
    /// Runs at a time, each in a process of its own with its share of the machine's threads. With more than one, times
    /// are those of runs that share the machine.
    #[serde(default = "default_jobs")]
    jobs: usize,
    /// Each method is trained on each task once for each of these: the seed of new weights, dropout and the order of
    /// examples. Tables show the mean and the deviation over them.
    #[serde(default = "default_seeds")]
    seeds: Vec<u64>,
    /// The model that all methods start from.
    #[schemars(with = "ModelSpec")]
    model: Spanned<toml::Table>,
    /// How every method is trained, unless its own table says otherwise. One of both gives `epochs` or `steps`.
    #[schemars(with = "Option<TrainingSpec>")]
    training: Option<Spanned<toml::Table>>,
    /// Has the learning rate of every method chosen on validation; without it each is trained with the one that is given.
    #[schemars(with = "Option<SearchSpec>")]
    search: Option<Spanned<toml::Table>>,
    /// The tasks, one table each, at least one: the columns of the report.
    #[serde(default)]
    #[schemars(with = "Vec<TaskSpec>", extend("minItems" = 1))]
    task: Vec<Spanned<toml::Table>>,
    /// The methods, one table each, at least one: the rows of the report.
    #[serde(default)]
    #[schemars(with = "Vec<MethodTable>", extend("minItems" = 1))]
    method: Vec<Spanned<toml::Table>>,
}

/// `[[method]]`: the keys that every method's table may have. All others are settings of the method itself, which has a
/// page with them: `bench docs methods NAME`.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "described here, and read one by one in `Reader::method`")]
struct MethodTable {
    /// Which method: a name of `bench list methods`.
    name: String,
    /// What tables call this row; without it the method's name with its main settings. Needed where two rows would be
    /// called the same.
    label: Option<String>,
    /// Keys of `[training]` with which this method is trained in place of the shared ones: `{ learning_rate = 1e-3 }`.
    /// `steps` or `epochs` here takes the place of either there.
    training: Option<TrainingSpec>,
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
                let mut message = with_hint(error.message(), &FILE_KEYS);
                // all else is about TOML itself
                if ["unknown field", "missing field", "invalid type"]
                    .iter()
                    .any(|of| error.message().starts_with(of))
                {
                    message += &page("the-file");
                }
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
        let plain_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        // `.` and `..` are folders that there are
        if file.name.trim_matches('.').is_empty() || !file.name.chars().all(plain_name) {
            let name = &file.name;
            self.mistake_at_key(
                0..self.text.len(),
                "name",
                &format!("name `{name}` names the results folder: use letters, digits, `-`, `_` and `.`, and not `.` alone"),
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
            if let Some(sign) = name.chars().find(|sign| is_invisible(*sign)) {
                let message = format!(
                    "the {what} `{}` has the sign {}, which no table can show; take it out",
                    name.escape_debug(),
                    sign.escape_unicode()
                );
                self.mistake(0..0, &message);
            }
            if plain(name).is_empty() || name.len() > LONGEST_NAME {
                let message = format!(
                    "the {what} `{name}` stands in names of files: give it letters or digits, and at most {LONGEST_NAME} bytes"
                );
                self.mistake(0..0, &message);
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
                let message = format!("method `{name}`: {error}; see `bench docs methods {name}`");
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
                let message = format!("{what}{at}: {}{}", with_hint(&text, &[]), page(what));
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

/// The end of a message about a key of `table`, such as `[training]`: where all of its keys are.
fn page(table: &str) -> String {
    let section = table.trim_matches(['[', ']']);
    format!("; see `bench docs experiment` (docs/experiment.md#{section})")
}

/// Signs that act on what stands around them: ends of lines, codes of terminals, directions of writing.
fn is_invisible(sign: char) -> bool {
    sign.is_control() || matches!(sign, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
