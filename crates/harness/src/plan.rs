//! From an experiment file to the cells of its grid.

use std::io::Read;
use std::path::Path;

use peftlab_peft::Registry;
use peftlab_record::{Parameters, RUNS, Status, TRIALS, Trial};
use peftlab_tasks::{Encoder, TaskData};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::attach::parameters;
use crate::device::OpenDevice;
use crate::error::HarnessError;
use crate::experiment::{Experiment, TrainingSpec};
use crate::optimizer::OptimizerSpec;
use crate::search::{Choice, SearchSpec};
use crate::sizes;
use crate::source::{ModelSource, TaskHead};
use crate::special::end_of_text;
use crate::train::planned_steps;

/// An experiment with everything looked up: what is left is to run it.
pub struct Plan {
    /// The experiment.
    pub experiment: Experiment,
    /// The model's files.
    pub source: ModelSource,
    /// The data, by task.
    pub data: Vec<TaskData>,
    /// The network's head, by task.
    pub heads: Vec<TaskHead>,
    /// The device.
    pub device: OpenDevice,
    /// Every cell: methods within tasks within seeds. Where the learning rate is searched they have none yet;
    /// [`search::settled`](crate::search::settled) gives them the one that the trials speak for.
    pub cells: Vec<Cell>,
    /// The trials of the search: rates within methods within tasks; empty where there is no search.
    pub trials: Vec<Cell>,
    /// By task: what a reader of its numbers should know of model and data, a sentence each.
    pub warnings: Vec<Vec<String>>,
    /// Digest of the program.
    program: String,
    part: Part,
}

/// Which of an experiment's tasks a plan has.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Tasks in the experiment's file.
    tasks: usize,
    /// The place there of the plan's first task.
    first: usize,
}

/// One run: a method on a task with a seed.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Its place in the grid of the whole experiment, or among its trials.
    pub index: usize,
    /// Whether it is a trial of the search: it leaves the test set alone.
    pub trial: bool,
    /// The method's place in the experiment, and the table's row.
    pub row: usize,
    /// The row's label.
    pub label: String,
    /// The method's name.
    pub method: String,
    /// The task's place in the experiment.
    #[serde(skip)]
    pub task_index: usize,
    /// The task's name.
    pub task: String,
    /// The seed.
    pub seed: u64,
    /// Hash over settings, model, data and program: a record with the same one needs no second run.
    pub identity: String,
    /// Everything that was resolved.
    pub settings: Value,
    /// Training, with the cell's own learning rate.
    #[serde(skip)]
    pub training: TrainingSpec,
    /// The trials that chose the learning rate.
    #[serde(skip)]
    pub searched: Option<Vec<Trial>>,
    /// Why it cannot be run: no trial of its search gave a rate to run it with.
    #[serde(skip)]
    pub failure: Option<(Status, String)>,
    /// Parameters, counted without building anything.
    #[serde(serialize_with = "as_value")]
    pub parameters: Parameters,
    /// Optimizer steps.
    pub steps: usize,
}

fn as_value<S: serde::Serializer>(parameters: &Parameters, serializer: S) -> Result<S::Ok, S::Error> {
    parameters.serialize(serializer)
}

impl Cell {
    /// The folder of a results folder that holds the cell's files.
    pub fn folder(&self) -> &'static str {
        if self.trial { TRIALS } else { RUNS }
    }

    /// The stem of the names of the cell's files.
    pub fn stem(&self) -> String {
        let rate = match self.trial {
            true => format!("--rate{:e}", self.training.learning_rate),
            false => String::new(),
        };
        format!("{:02}-{}--{}{rate}--seed{}", self.row, plain(&self.label), plain(&self.task), self.seed)
    }
}

/// What of a name stands in the names of files.
pub(crate) fn plain(text: &str) -> String {
    let kept = text.chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { '-' });
    kept.collect::<String>().split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

/// A digest of the running program: with another one, results may be others.
///
/// # Errors
/// Where the program cannot read its own file.
pub fn program_digest() -> Result<String, HarnessError> {
    let path = std::env::current_exe().map_err(|error| HarnessError::read(Path::new("bench"), &error))?;
    let mut digest = Sha256::new();
    let mut program = std::fs::File::open(&path).map_err(|error| HarnessError::read(&path, &error))?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match program.read(&mut chunk).map_err(|error| HarnessError::read(&path, &error))? {
            0 => break Ok(hex(&digest.finalize())),
            read => digest.update(&chunk[..read]),
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Plan {
    /// Reads everything that `experiment` names, and checks that every cell can be run. Nothing is written.
    ///
    /// # Errors
    /// Where something is missing or wrong.
    pub fn new(experiment: Experiment, device: OpenDevice, program: &str) -> Result<Self, HarnessError> {
        let part = Part { tasks: experiment.tasks.len(), first: 0 };
        Self::of_part(experiment, part, device, program)
    }

    fn of_part(
        experiment: Experiment,
        part: Part,
        device: OpenDevice,
        program: &str,
    ) -> Result<Self, HarnessError> {
        let source = ModelSource::read(&experiment)?;
        let data = load_data(&experiment, &source)?;
        let heads = experiment.tasks.iter().zip(&data).map(|(task, data)| source.head(task, data));
        let heads = heads.collect::<Result<Vec<_>, _>>()?;
        let program = program.to_owned();
        let (cells, trials) = (Vec::new(), Vec::new());
        let of_task = |(data, head): (&TaskData, &TaskHead)| {
            [&source.warnings[..], &head.warnings, &data.warnings].concat()
        };
        let warnings = data.iter().zip(&heads).map(of_task).collect();
        let mut plan =
            Self { experiment, source, data, heads, device, cells, trials, warnings, program, part };
        plan.check_training()?;
        plan.expand()?;
        Ok(plan)
    }

    /// Reads an experiment file and plans it on the device it asks for.
    ///
    /// # Errors
    /// As [`Experiment::read`], [`OpenDevice::named`] and [`Plan::new`].
    pub fn read(path: &Path, registry: &Registry) -> Result<Self, HarnessError> {
        let experiment = Experiment::read(path, registry)?;
        let device = OpenDevice::named(&experiment.device)?;
        Self::new(experiment, device, &program_digest()?)
    }

    /// As [`read`](Self::read), with the one task that the cell at `index` of the grid is of (that trial, for a
    /// `trial`): no other task's data is read, and the plan's cells are those of that task, each the same as in the
    /// whole plan.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_for_cell(
        path: &Path,
        registry: &Registry,
        index: usize,
        trial: bool,
    ) -> Result<Self, HarnessError> {
        let mut experiment = Experiment::read(path, registry)?;
        let tasks = experiment.tasks.len();
        let rates =
            experiment.search.as_ref().filter(|_| trial).map_or(1, |search| search.learning_rate.len());
        // rates within methods within tasks within seeds, as `expand` makes them
        let first = index / (experiment.methods.len() * rates).max(1) % tasks.max(1);
        experiment.tasks = experiment.tasks.drain(..).skip(first).take(1).collect();
        let device = OpenDevice::named(&experiment.device)?;
        Self::of_part(experiment, Part { tasks, first }, device, &program_digest()?)
    }

    /// The place in the experiment's file of the plan's task `index`.
    pub fn task_in_file(&self, index: usize) -> usize {
        self.part.first + index
    }

    /// Reads an experiment file and plans it, on a machine that need not have its device.
    ///
    /// # Errors
    /// As [`Experiment::read`] and [`Plan::new`].
    pub fn outline(path: &Path, registry: &Registry) -> Result<Self, HarnessError> {
        Self::new(Experiment::read(path, registry)?, OpenDevice::cpu(), "")
    }

    /// Every warning, each once, with the tasks it is about unless that is all of them.
    pub fn all_warnings(&self) -> Vec<String> {
        let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
        for (warnings, task) in self.warnings.iter().zip(&self.experiment.tasks) {
            for warning in warnings {
                match all.iter_mut().find(|(text, _)| text == warning) {
                    Some((_, tasks)) => tasks.push(&task.name),
                    None => all.push((warning, vec![&task.name])),
                }
            }
        }
        let everywhere = self.experiment.tasks.len();
        let line = |(text, tasks): (&str, Vec<&str>)| match tasks.len() == everywhere {
            true => text.to_owned(),
            false => format!("task {}: {text}", tasks.join(", ")),
        };
        all.into_iter().map(line).collect()
    }

    fn check_training(&self) -> Result<(), HarnessError> {
        let path = &self.experiment.path;
        for method in &self.experiment.methods {
            let (label, training) = (&method.label, &method.training);
            training.check().map_err(|message| {
                HarnessError::input(path, format!("[training] of `{label}`: {message}"))
            })?;
            if method.method.needs_adamw() && !matches!(training.optimizer, OptimizerSpec::AdamW { .. }) {
                let name = method.method.card().name;
                return Err(HarnessError::input(
                    path,
                    format!(
                        "[training] of `{label}`: `{name}` keeps AdamW's moments, and optimizer is another; give the \
                         method its own, training = {{ optimizer = {{ name = \"adamw\" }} }}"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn expand(&mut self) -> Result<(), HarnessError> {
        let places = self.places()?;
        let methods = self.experiment.methods.len();
        let in_grid = |place: &Place| self.task_in_file(place.task_index) * methods + place.row;
        let mut cells = Vec::new();
        for (number, seed) in self.experiment.seeds.iter().enumerate() {
            for place in &places {
                let mut training = self.experiment.methods[place.row].training.clone();
                // without a rate until the trials have chosen one
                training.learning_rate =
                    if self.experiment.search.is_some() { f64::NAN } else { training.learning_rate };
                let index = number * self.part.tasks * methods + in_grid(place);
                cells.push(self.cell(index, place, *seed, training, false));
            }
        }
        let mut trials = Vec::new();
        if let Some((search, seed)) = self.search() {
            for place in &places {
                for (number, rate) in search.learning_rate.iter().enumerate() {
                    let mut training = self.experiment.methods[place.row].training.clone();
                    training.learning_rate = *rate;
                    let index = in_grid(place) * search.learning_rate.len() + number;
                    trials.push(self.cell(index, place, seed, training, true));
                }
            }
        }
        (self.cells, self.trials) = (cells, trials);
        Ok(())
    }

    /// The search, and the seed of its trials.
    pub fn search(&self) -> Option<(&SearchSpec, u64)> {
        let search = self.experiment.search.as_ref()?;
        Some((search, search.seed.unwrap_or(self.experiment.seeds[0])))
    }

    /// Every method on every task, methods within tasks.
    fn places(&mut self) -> Result<Vec<Place>, HarnessError> {
        let mut places = Vec::new();
        for (task_index, (task, data)) in self.experiment.tasks.iter().zip(&self.data).enumerate() {
            let outline = &self.heads[task_index].outline;
            sizes::check_segments(task, data, &self.source.config)
                .map_err(|message| HarnessError::input(&self.experiment.path, message))?;
            let refused = |message| HarnessError::input(&self.experiment.path, message);
            let table = self.source.config["max_position_embeddings"].as_u64().unwrap_or_default();
            for (row, spec) in self.experiment.methods.iter().enumerate() {
                let count = spec.method.count(outline).map_err(|reason| {
                    refused(format!("method `{}` on task `{}`: {reason}", spec.label, task.name))
                })?;
                let told = sizes::check_length(task, data, spec, outline, table).map_err(refused)?;
                // most methods say the same
                let known = &mut self.warnings[task_index];
                known.extend(told.filter(|told| !known.contains(told)));
                let parameters =
                    parameters(count.adapter, outline.head(), count.stored, count.buffers, outline.total());
                places.push(Place { task_index, row, parameters });
            }
        }
        Ok(places)
    }

    fn cell(&self, index: usize, place: &Place, seed: u64, training: TrainingSpec, trial: bool) -> Cell {
        let spec = &self.experiment.methods[place.row];
        let task = &self.experiment.tasks[place.task_index];
        let settings = json!({
            "method": spec.method.settings(),
            "training": training,
            "task": task,
            "model": self.experiment.model,
            "device": self.device.describe(),
            "jobs": self.experiment.jobs,
        });
        let steps = planned_steps(&training, self.data[place.task_index].train.examples.len());
        let cell = Cell {
            index,
            trial,
            row: place.row,
            label: spec.label.clone(),
            method: spec.method.card().name.to_owned(),
            task_index: place.task_index,
            task: task.name.clone(),
            seed,
            identity: String::new(),
            settings,
            training,
            searched: None,
            failure: None,
            parameters: place.parameters.clone(),
            steps,
        };
        Cell { identity: self.identity(&cell), ..cell }
    }

    fn identity(&self, cell: &Cell) -> String {
        let mut parts = vec![
            cell.settings.to_string(),
            cell.method.clone(),
            cell.seed.to_string(),
            self.source.digest.clone(),
            self.source.config.to_string(),
            self.data[cell.task_index].digest.clone(),
            self.program.clone(),
        ];
        if cell.trial {
            parts.push("trial".to_owned());
        }
        hex(&Sha256::digest(parts.join("\n")))[..16].to_owned()
    }

    /// `cell` with what its trials chose, and so with another identity.
    pub(crate) fn settle(&self, cell: &Cell, choice: Choice, searched: Vec<Trial>) -> Cell {
        let mut cell = Cell { searched: Some(searched), ..cell.clone() };
        match choice {
            Choice::Rate(rate) => {
                cell.training.learning_rate = rate;
                cell.settings["training"]["learning_rate"] = json!(rate);
                cell.identity = self.identity(&cell);
            }
            Choice::Impossible(status, message) => cell.failure = Some((status, message)),
        }
        cell
    }
}

/// A method on a task, whatever the seed.
struct Place {
    task_index: usize,
    row: usize,
    parameters: Parameters,
}

fn load_data(experiment: &Experiment, source: &ModelSource) -> Result<Vec<TaskData>, HarnessError> {
    let vocabulary = source.config["vocab_size"].as_u64().unwrap_or_default() as usize;
    let eos = end_of_text(&experiment.model, &source.config, &source.special, source.tokenizer.as_ref());
    let encoder = Encoder { tokenizer: source.tokenizer.clone(), eos, vocabulary };
    let load = |task: &peftlab_tasks::TaskSpec| {
        task.load(experiment.base(), &encoder).map_err(|error| match error.is_of_experiment() {
            true => HarnessError::input(&experiment.path, error.to_string()),
            false => error.into(),
        })
    };
    experiment.tasks.iter().map(load).collect()
}
