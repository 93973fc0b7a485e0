//! From an experiment file to the cells of its grid.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use peftlab_backbones::{BackboneCard, Head, build, card};
use peftlab_checkpoint::{ModelFiles, load_config, resolve};
use peftlab_layers::{Builder, Model, Weights};
use peftlab_peft::{Outline, Registry};
use peftlab_record::Parameters;
use peftlab_tasks::{Encoder, TaskData, TaskKind};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::attach::parameters;
use crate::device::OpenDevice;
use crate::error::HarnessError;
use crate::experiment::{DtypeSpec, Experiment, WeightsSpec};
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
    /// Every cell: methods within tasks within seeds.
    pub cells: Vec<Cell>,
}

/// One run: a method on a task with a seed.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Its place in the grid, and in the plan's list.
    pub index: usize,
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
    /// The stem of the names of the cell's files.
    pub fn stem(&self) -> String {
        let plain = |text: &str| {
            let kept = text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' });
            kept.collect::<String>().split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
        };
        format!("{:02}-{}--{}--seed{}", self.row, plain(&self.label), plain(&self.task), self.seed)
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
        Ok(Self { config, files, name, path, digest, dtype, card })
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
        let mut plan = Self { experiment, source, data, device, cells: Vec::new() };
        plan.check_training()?;
        plan.cells = plan.expand(program)?;
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

    fn expand(&self, program: &str) -> Result<Vec<Cell>, HarnessError> {
        let outlines =
            self.data.iter().map(|data| self.source.outline(head(data))).collect::<Result<Vec<_>, _>>()?;
        let mut cells = Vec::new();
        for seed in &self.experiment.seeds {
            for (task_index, (task, data)) in self.experiment.tasks.iter().zip(&self.data).enumerate() {
                for (row, spec) in self.experiment.methods.iter().enumerate() {
                    let outline = &outlines[task_index];
                    let count = spec.method.count(outline).map_err(|reason| {
                        let message = format!("method `{}` on task `{}`: {reason}", spec.label, task.name);
                        HarnessError::input(&self.experiment.path, message)
                    })?;
                    let settings = json!({
                        "method": spec.method.settings(),
                        "training": spec.training,
                        "task": task,
                        "model": self.experiment.model,
                        "device": self.device.describe(),
                        "jobs": self.experiment.jobs,
                    });
                    let identity = [
                        &settings.to_string(),
                        spec.method.card().name,
                        &seed.to_string(),
                        &self.source.digest,
                        &self.source.config.to_string(),
                        &data.digest,
                        program,
                    ];
                    cells.push(Cell {
                        index: cells.len(),
                        row,
                        label: spec.label.clone(),
                        method: spec.method.card().name.to_owned(),
                        task_index,
                        task: task.name.clone(),
                        seed: *seed,
                        identity: hex(&Sha256::digest(identity.join("\n")))[..16].to_owned(),
                        settings,
                        parameters: parameters(
                            count.adapter,
                            outline.head(),
                            count.stored,
                            count.buffers,
                            outline.total(),
                        ),
                        steps: planned_steps(&spec.training, data.train.examples.len()),
                    });
                }
            }
        }
        Ok(cells)
    }
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
