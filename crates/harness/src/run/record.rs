//! A run's record before anything is measured.

use std::time::{SystemTime, UNIX_EPOCH};

use peftlab_record::{Environment, ModelInfo, Record, SCHEMA, SplitInfo, Status, TaskInfo};
use peftlab_tasks::SplitCounts;
use serde_json::Value;

use crate::experiment::DtypeSpec;
use crate::plan::{Cell, Plan};

/// The record of `cell` with nothing measured: what a run that did not end well leaves, too.
pub fn empty_record(plan: &Plan, cell: &Cell, program: &str) -> Record {
    let data = &plan.data[cell.task_index];
    let metric = data.metrics[0];
    Record {
        schema: SCHEMA,
        experiment: plan.experiment.name.clone(),
        identity: cell.identity.clone(),
        inputs: Value::clone(&cell.inputs),
        row: plan.origin.row + cell.row,
        label: cell.label.clone(),
        method: cell.method.clone(),
        family: plan.experiment.methods[cell.row].method.card().family.name().to_owned(),
        seed: cell.seed,
        task: TaskInfo {
            name: cell.task.clone(),
            kind: data.kind.name().to_owned(),
            metric: metric.name().to_owned(),
            higher_is_better: metric.higher_is_better(),
            in_points: metric.in_points(),
            index: plan.origin.task + cell.task_index,
            digest: data.digest.clone(),
            splits: data.splits.iter().map(split_info).collect(),
        },
        model: ModelInfo {
            name: plan.source.name.clone(),
            architecture: plan.source.architecture().to_owned(),
            source: plan.experiment.model.source.clone(),
            digest: plan.source.digest.clone(),
            dtype: match plan.experiment.model.dtype {
                DtypeSpec::F32 => "f32",
                DtypeSpec::Bf16 => "bf16",
            }
            .to_owned(),
            trained_dtype: "f32".to_owned(),
        },
        status: Status::Failed,
        message: String::new(),
        parameters: cell.parameters.clone(),
        settings: Value::clone(&cell.settings),
        warnings: plan.warnings[cell.task_index].clone(),
        measured: None,
        environment: Environment {
            device: plan.device.describe(),
            threads: crate::execute::threads(plan.experiment.jobs) as u64,
            jobs: plan.experiment.jobs as u64,
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: peftlab_meter::environment().cpu,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            program: program.to_owned(),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        },
    }
}

fn split_info(counts: &SplitCounts) -> SplitInfo {
    SplitInfo {
        name: counts.name.clone(),
        rows: counts.rows,
        examples: counts.examples,
        tokens: counts.tokens,
        cut: counts.cut,
        dropped: counts.dropped.iter().cloned().collect(),
    }
}
