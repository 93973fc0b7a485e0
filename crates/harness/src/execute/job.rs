//! A cell with all that it takes to run it, to be handed to another process: what becomes of the experiment file
//! meanwhile does not matter to it.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use peftlab_peft::Registry;
use peftlab_record::{RUNS, Record, Status, TRIALS, Trial};
use peftlab_tasks::TaskSpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::store::changed;
use crate::device::OpenDevice;
use crate::error::HarnessError;
use crate::experiment::{Experiment, MethodSpec, ModelSpec, TrainingSpec};
use crate::plan::{Cell, Origin, Plan};

/// One cell to be run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The experiment's name.
    pub experiment: String,
    /// The file it was read from: paths start there.
    pub path: PathBuf,
    /// The results folder.
    pub out: PathBuf,
    /// The device, opened before: never `auto`.
    pub device: String,
    /// Cells that run at the same time.
    pub jobs: usize,
    /// SHA-256 of the program that planned it.
    pub program: String,
    /// The model.
    pub model: ModelSpec,
    /// The task.
    pub task: TaskSpec,
    /// Its place in the experiment.
    pub task_index: usize,
    /// The row's label.
    pub label: String,
    /// The row.
    pub row: usize,
    /// The method's name.
    pub method: String,
    /// All its settings.
    pub settings: Value,
    /// Training, with the cell's own learning rate.
    pub training: TrainingSpec,
    /// The trials that chose the learning rate.
    pub searched: Option<Vec<Trial>>,
    /// The seed.
    pub seed: u64,
    /// Whether it is a trial of the search.
    pub trial: bool,
    /// What decides its numbers, as it was planned.
    pub inputs: Value,
    /// The hash of that.
    pub identity: String,
    /// The stem of its files' names.
    pub stem: String,
    /// Milliseconds since 1970 when the grid was planned: a record written since then is of another run that shares the
    /// work.
    pub planned: u64,
}

impl Job {
    pub(super) fn new(plan: &Plan, cell: &Cell, out: &Path, program: &str, planned: u64) -> Self {
        let experiment = &plan.experiment;
        let method = &experiment.methods[cell.row].method;
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self {
            experiment: experiment.name.clone(),
            path: absolute(&experiment.path),
            out: absolute(out),
            device: plan.device.name.clone(),
            jobs: experiment.jobs,
            program: program.to_owned(),
            model: experiment.model.clone(),
            task: experiment.tasks[cell.task_index].clone(),
            task_index: cell.task_index,
            label: cell.label.clone(),
            row: cell.row,
            method: method.card().name.to_owned(),
            settings: method.settings(),
            training: cell.training.clone(),
            searched: cell.searched.clone(),
            seed: cell.seed,
            trial: cell.trial,
            inputs: Value::clone(&cell.inputs),
            identity: cell.identity.clone(),
            stem: cell.stem(),
            planned,
        }
    }

    /// The file of its record.
    pub fn record_path(&self) -> PathBuf {
        let folder = if self.trial { TRIALS } else { RUNS };
        self.out.join(folder).join(format!("{}.json", self.stem))
    }

    /// Its record, if it has been written since the grid was planned, here or by another run that shares the work and may
    /// have another name for the cell.
    pub(super) fn written(&self) -> Option<Record> {
        let own = self.record_path();
        // a folder of ten thousand cells is not looked through for the one that was written here
        let done = |record: &Record| record.status == Status::Done;
        if let Some(here) = self.new_record(&own).filter(done) {
            return Some(here);
        }
        let ending = format!("--{}.json", self.stem.rsplit("--").next()?);
        let entries = std::fs::read_dir(own.parent()?).ok()?.filter_map(Result::ok);
        let of_cell =
            entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.ends_with(&ending)));
        of_cell.filter_map(|entry| self.new_record(&entry.path())).max_by_key(done)
    }

    /// The record at `path`, if it is of this cell and was written since the grid was planned.
    fn new_record(&self, path: &Path) -> Option<Record> {
        let record = self.is_new(path).then(|| Record::read(path).ok()).flatten();
        record.filter(|record| record.identity == self.identity)
    }

    /// Whether the file at `path` was written since the grid was planned.
    fn is_new(&self, path: &Path) -> bool {
        let written = std::fs::metadata(path).and_then(|file| file.modified()).ok();
        let written = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        written.is_some_and(|written| written.as_millis() >= u128::from(self.planned))
    }

    /// The plan of this cell alone, and the cell.
    ///
    /// # Errors
    /// As [`Plan::new`], and where model or data are not what they were when the grid was planned.
    pub(super) fn plan(&self, registry: &Registry) -> Result<(Plan, Cell), HarnessError> {
        let entry =
            registry.get(&self.method).map_err(|error| HarnessError::input(&self.path, error.to_string()))?;
        let method = entry.parse(self.settings.clone());
        let method = method.map_err(|error| HarnessError::input(&self.path, error.to_string()))?;
        let spec = MethodSpec { label: self.label.clone(), method, training: self.training.clone() };
        let experiment = Experiment {
            name: self.experiment.clone(),
            path: self.path.clone(),
            device: self.device.clone(),
            jobs: self.jobs,
            seeds: vec![self.seed],
            model: self.model.clone(),
            training: self.training.clone(),
            search: None,
            tasks: vec![self.task.clone()],
            methods: vec![spec],
        };
        let device = OpenDevice::named(&self.device)?;
        let plan = Plan::at(experiment, device, Origin { row: self.row, task: self.task_index })?;
        let cell = plan.single(self.trial, self.searched.clone());
        if cell.identity != self.identity {
            let what = changed(&self.inputs, &cell.inputs);
            return Err(HarnessError::Failed(format!("{what} while the grid was running; start it again")));
        }
        Ok((plan, cell))
    }
}
