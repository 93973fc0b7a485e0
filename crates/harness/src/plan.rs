//! From an experiment file to the cells of its grid.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use peftlab_backbones::{BackboneCard, Head, build, card};
use peftlab_checkpoint::{ModelFiles, load_config, resolve};
use peftlab_layers::{Builder, Model, Weights};
use peftlab_peft::{Outline, Registry};
use peftlab_record::{Parameters, RUNS, Status, TRIALS, Trial};
use peftlab_tasks::{Encoder, TaskData, TaskKind};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::attach::parameters;
use crate::device::OpenDevice;
use crate::error::HarnessError;
use crate::experiment::{DtypeSpec, Experiment, TrainingSpec, WeightsSpec};
use crate::search::{Choice, SearchSpec};
use crate::train::planned_steps;

/// An experiment with everything looked up: what is left is to run it.
pub struct Plan {
    /// The experiment.
    pub experiment: Experiment,
    /// The model's files.
    pub source: ModelSource,
    /// The data, by task.
    pub data: Vec<TaskData>,
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
}

/// One run: a method on a task with a seed.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Its place in the grid, and in the plan's list, which is that of the trials for a trial.
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
        let plain = |text: &str| {
            let kept = text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' });
            kept.collect::<String>().split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
        };
        let rate = match self.trial {
            true => format!("--rate{:e}", self.training.learning_rate),
            false => String::new(),
        };
        format!("{:02}-{}--{}{rate}--seed{}", self.row, plain(&self.label), plain(&self.task), self.seed)
    }
}

/// A model's configuration, and where its weights are.
pub struct ModelSource {
    /// `config.json`, with the experiment's changes.
    pub config: Value,
    /// The checkpoint; none for random weights.
    pub files: Option<ModelFiles>,
    /// What to call it.
    pub name: String,
    /// Where it came from.
    pub path: PathBuf,
    /// Identifies it.
    pub digest: String,
    /// Element type of frozen weights.
    pub dtype: DType,
    /// What a reader of the numbers should know of the model's files; a sentence each.
    pub warnings: Vec<String>,
    card: &'static BackboneCard,
}

impl ModelSource {
    fn read(experiment: &Experiment) -> Result<Self, HarnessError> {
        let spec = &experiment.model;
        let path = PathBuf::from(&spec.source);
        let (mut config, files, mut digest) = match spec.weights {
            WeightsSpec::Pretrained => {
                let files = resolve(&spec.source, experiment.base())?;
                (files.config.clone(), Some(files), String::new())
            }
            WeightsSpec::Random => (load_config(&experiment.base().join(&path))?, None, "random".to_owned()),
        };
        for (key, value) in &spec.config {
            config[key] = value.clone();
        }
        if let Some(files) = &files {
            digest.clone_from(&files.digest);
        }
        let card = card(&config).map_err(|reason| HarnessError::Backbone { path: path.clone(), reason })?;
        let last = spec.source.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or(&spec.source);
        let name = spec.name.clone().unwrap_or_else(|| last.to_owned());
        let dtype = match spec.dtype {
            DtypeSpec::F32 => DType::F32,
            DtypeSpec::Bf16 => DType::BF16,
        };
        Ok(Self { config, files, name, path, digest, dtype, warnings: Vec::new(), card })
    }

    /// The `model_type`.
    pub fn architecture(&self) -> &'static str {
        self.card.name
    }

    /// Builds the model. What the checkpoint lacks (a new head) is drawn from `seed`.
    ///
    /// # Errors
    /// Where the checkpoint does not fit.
    pub fn build(&self, head: Head, seed: u64, device: &Device) -> Result<Model, HarnessError> {
        self.with(head, &Builder::new(self.weights(seed), device, self.dtype))
    }

    /// The model's shape, with nothing allocated.
    ///
    /// # Errors
    /// Where the configuration is not one, there is no such head, or the checkpoint does not fit.
    pub fn outline(&self, head: Head) -> Result<Outline, HarnessError> {
        let builder = Builder::new(self.weights(0), &Device::flex(), self.dtype).outline();
        Ok(Outline::of(&mut self.with(head, &builder)?))
    }

    /// Whether the parameter `name` may be missing from the checkpoint, and is, so that it is drawn. All that random
    /// weights have is meant to be.
    pub fn draws(&self, name: &str) -> bool {
        let Some(files) = &self.files else { return false };
        let in_file = name.strip_prefix(self.card.base_prefix).unwrap_or(name);
        let has = |name: &str| files.weights.info(name).is_some();
        self.card.fresh.iter().any(|prefix| name.starts_with(prefix)) && !has(name) && !has(in_file)
    }

    fn weights(&self, seed: u64) -> Weights<'_> {
        match &self.files {
            Some(files) => Weights::Checkpoint {
                source: &*files.weights,
                base_prefix: self.card.base_prefix,
                fresh: self.card.fresh,
                seed,
            },
            None => Weights::Random { seed },
        }
    }

    fn with(&self, head: Head, builder: &Builder<'_>) -> Result<Model, HarnessError> {
        let backbone = build(&self.config, head, builder);
        Ok(Model::new(backbone.map_err(|reason| HarnessError::Backbone { path: self.path.clone(), reason })?))
    }
}

/// The head that a task asks for.
pub fn head(data: &TaskData) -> Head {
    match data.kind {
        TaskKind::Classification => Head::Sequence { outputs: data.classes.len() },
        TaskKind::Regression => Head::Sequence { outputs: 1 },
        TaskKind::CausalLm | TaskKind::Instruction => Head::LanguageModel,
    }
}

/// A digest of the running program: with another one, results may be others.
///
/// # Errors
/// Where the program cannot read its own file.
pub fn program_digest() -> Result<String, HarnessError> {
    let path = std::env::current_exe().map_err(|error| HarnessError::read(Path::new("bench"), &error))?;
    let bytes = std::fs::read(&path).map_err(|error| HarnessError::read(&path, &error))?;
    Ok(hex(&Sha256::digest(bytes)))
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
        let source = ModelSource::read(&experiment)?;
        let data = load_data(&experiment, &source)?;
        let program = program.to_owned();
        let (cells, trials) = (Vec::new(), Vec::new());
        let warnings = data.iter().map(|data| [&source.warnings[..], &data.warnings].concat()).collect();
        let mut plan = Self { experiment, source, data, device, cells, trials, warnings, program };
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
        }
        Ok(())
    }

    fn expand(&mut self) -> Result<(), HarnessError> {
        let places = self.places()?;
        let mut cells = Vec::new();
        for seed in &self.experiment.seeds {
            for place in &places {
                let mut training = self.experiment.methods[place.row].training.clone();
                // without a rate until the trials have chosen one
                training.learning_rate =
                    if self.experiment.search.is_some() { f64::NAN } else { training.learning_rate };
                cells.push(self.cell(cells.len(), place, *seed, training, false));
            }
        }
        let mut trials = Vec::new();
        if let Some((search, seed)) = self.search() {
            for place in &places {
                for rate in &search.learning_rate {
                    let mut training = self.experiment.methods[place.row].training.clone();
                    training.learning_rate = *rate;
                    trials.push(self.cell(trials.len(), place, seed, training, true));
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
    fn places(&self) -> Result<Vec<Place>, HarnessError> {
        let mut places = Vec::new();
        for (task_index, (task, data)) in self.experiment.tasks.iter().zip(&self.data).enumerate() {
            let outline = self.source.outline(head(data))?;
            for (row, spec) in self.experiment.methods.iter().enumerate() {
                let count = spec.method.count(&outline).map_err(|reason| {
                    let message = format!("method `{}` on task `{}`: {reason}", spec.label, task.name);
                    HarnessError::input(&self.experiment.path, message)
                })?;
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
    let tokenizer = match &experiment.model.tokenizer {
        Some(path) => Some(peftlab_checkpoint::load_tokenizer(&experiment.base().join(path))?),
        None => source.files.as_ref().and_then(|files| files.tokenizer.clone()),
    };
    let id = |key: &str| source.config[key].as_u64().map(|id| id as u32);
    let vocabulary = id("vocab_size").unwrap_or_default() as usize;
    let encoder = Encoder { tokenizer, eos: id("eos_token_id"), vocabulary };
    let load = |task: &peftlab_tasks::TaskSpec| task.load(experiment.base(), &encoder);
    Ok(experiment.tasks.iter().map(load).collect::<Result<_, _>>()?)
}
