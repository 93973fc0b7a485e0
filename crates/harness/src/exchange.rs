//! Adapters to and from Hugging Face PEFT.

use std::path::Path;

use burn::module::Module;
use peftlab_peft::Registry;
use peftlab_record::{Record, Score};
use serde_json::Value;

use crate::adapter;
use crate::attach::Attached;
use crate::error::{HarnessError, read_json};
use crate::plan::Plan;
use crate::run::{Scorer, TEST, VALIDATION};

/// Writes the adapter of the run whose record is at `record` into the folder `out`.
///
/// # Errors
/// Where the record is not of a cell of `plan`, or PEFT has no such method.
pub fn export(record: &Path, plan: &Plan, out: &Path) -> Result<(), HarnessError> {
    let read = Record::read(record)?;
    let cell = plan
        .cells
        .iter()
        .find(|cell| (&cell.label, &cell.task, cell.seed) == (&read.label, &read.task.name, read.seed));
    let Some(cell) = cell.filter(|_| read.settings["method"] == settings(plan, &read)) else {
        let file = plan.experiment.path.display();
        return Err(HarnessError::input(record, format!("is not of a cell of {file} as it is now")));
    };
    let device = plan.device.tensors.clone().autodiff();
    let model = plan.source.build(&plan.heads[cell.task_index], cell.seed, &device)?;
    let method = &*plan.experiment.methods[cell.row].method;
    let attached = Attached::new(model, method, cell.seed, &device)
        .map_err(|reason| HarnessError::input(&plan.experiment.path, reason.to_string()))?;
    let model = adapter::load(attached.model, &attached.outline, &record.with_extension("safetensors"))?;
    let drawn = &plan.heads[cell.task_index].drawn;
    adapter::save(&model, method, &attached.outline, drawn, &plan.experiment.model.source, out)
}

fn settings(plan: &Plan, record: &Record) -> Value {
    let method = plan.experiment.methods.iter().find(|method| method.label == record.label);
    method.map(|method| method.method.settings()).unwrap_or_default()
}

/// Scores the adapter in the folder `dir` on a task of `plan`: the name of each split, and its scores.
///
/// # Errors
/// Where there is no adapter, it is of a method that is not known, or it does not fit the model.
pub fn import(
    dir: &Path,
    plan: &Plan,
    task: Option<&str>,
    registry: &Registry,
) -> Result<Vec<(&'static str, Score)>, HarnessError> {
    let config_path = dir.join("adapter_config.json");
    let config: Value = read_json(&config_path)?;
    let method = registry
        .from_peft(&config)
        .map_err(|reason| HarnessError::input(&config_path, reason.to_string()))?
        .ok_or_else(|| {
            HarnessError::input(
                &config_path,
                format!("peft_type {} is not one that is known", config["peft_type"]),
            )
        })?;
    let names: Vec<&str> = plan.experiment.tasks.iter().map(|task| task.name.as_str()).collect();
    let index = match task {
        None => 0,
        Some(task) => names.iter().position(|name| *name == task).ok_or_else(|| {
            let message = format!("--task: there is no task `{task}`; there are {}", names.join(", "));
            HarnessError::input(&plan.experiment.path, message)
        })?,
    };
    let data = &plan.data[index];
    let device = plan.device.tensors.clone().autodiff();
    let model = plan.source.build(&plan.heads[index], 0, &device)?;
    let attached = Attached::new(model, &*method, 0, &device)
        .map_err(|reason| HarnessError::input(&config_path, reason.to_string()))?;
    let file = dir.join("adapter_model.safetensors");
    let mut model = adapter::load(attached.model, &attached.outline, &file)?.valid();
    let (task, head) = (&plan.experiment.tasks[index], &plan.heads[index]);
    let virtual_tokens = method.virtual_tokens();
    let training = &plan.experiment.training;
    let scorer = Scorer { plan, task, data, head, virtual_tokens, training };
    let feeder = scorer.feeder(&mut model, &device);
    let mut scores = Vec::new();
    let splits = [(VALIDATION, Some(&data.validation)), (TEST, data.test.as_ref())];
    for (name, split) in splits.into_iter().filter_map(|(name, split)| Some((name, split?))) {
        let evaluation = scorer.evaluate(&model, (name, split), &feeder)?;
        scores.extend(scorer.scores(&evaluation).into_iter().map(|score| (name, score)));
    }
    Ok(scores)
}
