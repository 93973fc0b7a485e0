//! From an experiment file to the cells of its grid.

mod cell;
mod sizes;

use std::collections::HashMap;
use std::path::Path;

use peftlab_peft::Registry;
use peftlab_record::{Manifest, Parameters, PlannedCell, PlannedMethod, PlannedTask, SCHEMA};
use peftlab_tasks::{Encoder, TaskData, TaskSpec};

use crate::device::OpenDevice;
use crate::error::HarnessError;
use crate::experiment::{Experiment, MethodSpec, SearchSpec};
use crate::model::attach::parameters;
use crate::model::source::{ModelSource, TaskHead};
use crate::model::special::end_of_text;
use crate::optimizer::OptimizerSpec;

pub use cell::{Cell, NUMERICS};
pub(crate) use sizes::{check_length, check_memory};

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
    /// [`settled`](crate::execute::settled) gives them the one that the trials speak for.
    pub cells: Vec<Cell>,
    /// The trials of the search: rates within methods within tasks; empty where there is no search.
    pub trials: Vec<Cell>,
    /// By task: what a reader of its numbers should know of model and data, a sentence each.
    pub warnings: Vec<Vec<String>>,
    pub(crate) origin: Origin,
}

/// Where in the experiment's table the first method and the first task of a plan are: a plan may be of one cell alone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Origin {
    pub(crate) row: usize,
    pub(crate) task: usize,
}

impl Plan {
    /// Reads everything that `experiment` names, and checks that every cell can be run. Nothing is written.
    ///
    /// # Errors
    /// Where something is missing or wrong.
    pub fn new(experiment: Experiment, device: OpenDevice) -> Result<Self, HarnessError> {
        Self::at(experiment, device, Origin::default())
    }

    pub(crate) fn at(
        experiment: Experiment,
        device: OpenDevice,
        origin: Origin,
    ) -> Result<Self, HarnessError> {
        let source = ModelSource::read(&experiment)?;
        let data = load_data(&experiment, &source)?;
        let heads = experiment.tasks.iter().zip(&data).map(|(task, data)| source.head(task, data));
        let heads = heads.collect::<Result<Vec<_>, _>>()?;
        let (cells, trials) = (Vec::new(), Vec::new());
        let of_task = |(data, head): (&TaskData, &TaskHead)| {
            [&source.warnings[..], &head.warnings, &data.warnings].concat()
        };
        let warnings = data.iter().zip(&heads).map(of_task).collect();
        let mut plan = Self { experiment, source, data, heads, device, cells, trials, warnings, origin };
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
        Self::new(experiment, device)
    }

    /// Reads an experiment file and plans it, on a machine that need not have its device.
    ///
    /// # Errors
    /// As [`Experiment::read`] and [`Plan::new`].
    pub fn outline(path: &Path, registry: &Registry) -> Result<Self, HarnessError> {
        let experiment = Experiment::read(path, registry)?;
        OpenDevice::check_name(&experiment.device)?;
        Self::new(experiment, OpenDevice::cpu())
    }

    /// The plan as a results folder keeps it, with the identities that `cells` have: a table is made of those.
    pub fn manifest(&self, cells: &[Cell]) -> Manifest {
        let settled: HashMap<(usize, usize, u64), &str> = cells
            .iter()
            .map(|cell| ((cell.row, cell.task_index, cell.seed), cell.identity.as_str()))
            .collect();
        let planned = |cell: &Cell| PlannedCell {
            method: cell.row,
            task: cell.task_index,
            seed: cell.seed,
            identity: settled.get(&(cell.row, cell.task_index, cell.seed)).map(|id| (*id).to_owned()),
        };
        let method = |spec: &MethodSpec| PlannedMethod {
            label: spec.label.clone(),
            method: spec.method.card().name.to_owned(),
            family: spec.method.card().family.name().to_owned(),
        };
        let task = |(task, data): (&TaskSpec, &TaskData)| PlannedTask {
            name: task.name.clone(),
            kind: data.kind.name().to_owned(),
            metric: data.metrics[0].name().to_owned(),
            higher_is_better: data.metrics[0].higher_is_better(),
            in_points: data.metrics[0].in_points(),
        };
        Manifest {
            schema: SCHEMA,
            experiment: self.experiment.name.clone(),
            model: self.source.name.clone(),
            seeds: self.experiment.seeds.clone(),
            methods: self.experiment.methods.iter().map(method).collect(),
            tasks: self.experiment.tasks.iter().zip(&self.data).map(task).collect(),
            cells: self.cells.iter().map(planned).collect(),
        }
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
        let mut cells = Vec::new();
        for seed in &self.experiment.seeds {
            for place in &places {
                let mut training = self.experiment.methods[place.row].training.clone();
                // without a rate until the trials have chosen one
                training.learning_rate =
                    if self.experiment.search.is_some() { f64::NAN } else { training.learning_rate };
                cells.push(self.cell(place, *seed, training, false));
            }
        }
        let mut trials = Vec::new();
        if let Some((search, seed)) = self.search() {
            for place in &places {
                for rate in &search.learning_rate {
                    let mut training = self.experiment.methods[place.row].training.clone();
                    training.learning_rate = *rate;
                    trials.push(self.cell(place, seed, training, true));
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
    let load = |task: &TaskSpec| {
        task.load(experiment.base(), &encoder).map_err(|error| match error.is_of_experiment() {
            true => HarnessError::input(&experiment.path, error.to_string()),
            false => error.into(),
        })
    };
    experiment.tasks.iter().map(load).collect()
}
