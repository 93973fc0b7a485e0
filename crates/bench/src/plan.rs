//! `bench plan`: what a run would do, and what it would take.

mod estimate;
mod states;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use peftlab_harness::device::OpenDevice;
use peftlab_harness::plan::{Cell, Plan};
use peftlab_harness::{Experiment, HarnessError};
use peftlab_peft::Registry;
use peftlab_record::{Manifest, Parameters, RUNS, TRIALS};
use peftlab_report::text_table;
use serde_json::{Map, Value, json};

use crate::format::{bytes, counted, disk, duration, grouped};
use crate::run::results_folder;
use crate::{Outcome, print, say, terminal, warn};
use estimate::Times;
use states::{Standing, States};

/// What is planned, and what is to be told of it.
#[derive(Args, Debug)]
pub(crate) struct PlanArguments {
    /// The experiment file.
    file: PathBuf,
    /// Results folder, for what is done already [default: results/NAME].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Train every row for a few steps, to tell how long the run will take; their results are thrown away.
    #[arg(long)]
    time: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn plan(arguments: &PlanArguments, registry: &Registry) -> Result<Outcome> {
    let experiment = Experiment::read(&arguments.file, registry)?;
    let out = results_folder(arguments.out.as_deref(), &experiment.name);
    let device = device(&experiment, &out)?;
    let plan = Plan::new(experiment, device)?;
    warn(&plan.all_warnings());
    if let Some(manifest) = Manifest::read(&out)?.filter(|known| known.experiment != plan.experiment.name) {
        let other = manifest.experiment;
        say(format!(
            "warning: {} is of the experiment `{other}`; choose another folder with --out",
            out.display()
        ));
    }
    let states = States::new(&plan, &out)?;
    let times = match arguments.time {
        true => Times::measured(&plan, &states)?,
        false => Times::of_records(&plan, &states, &out)?,
    };
    let outlook =
        Outlook { there: disk(&out.join(RUNS)) + disk(&out.join(TRIALS)), plan, out, states, times };
    match arguments.json {
        true => print(serde_json::to_string_pretty(&outlook.json())?),
        false => outlook.print(),
    }
    Ok(Outcome::Done)
}

/// The device of the records that there are: what is done depends on its kind. Where there are none, or the device is on
/// another machine, the processor does.
fn device(experiment: &Experiment, out: &Path) -> Result<OpenDevice, HarnessError> {
    if !out.join(RUNS).is_dir() {
        return Ok(OpenDevice::cpu());
    }
    match OpenDevice::named(&experiment.device) {
        Err(HarnessError::Device(why)) => {
            say(format!("warning: what is done is told as if it were run on the processor: {why}"));
            Ok(OpenDevice::cpu())
        }
        opened => opened,
    }
}

struct Outlook {
    plan: Plan,
    out: PathBuf,
    states: States,
    times: Times,
    /// Bytes in the results folder.
    there: u64,
}

impl Outlook {
    fn print(&self) {
        self.print_size();
        self.print_data();
        self.print_rows();
        print("");
        for (trials, what) in [(true, "trial"), (false, "cell")] {
            let summary = self.states.summary(trials);
            if summary.count > 0 {
                print(format!(
                    "{}: {} done, {} to run",
                    counted(summary.count, what),
                    grouped(summary.done as u64),
                    grouped((summary.count - summary.done) as u64)
                ));
                for (why, count) in &summary.reasons {
                    print(format!("  {} {why}", grouped(*count as u64)));
                }
            }
        }
        let (there, more) = (bytes(self.there), bytes(self.states.disk(&self.plan)));
        print(format!("disk: {there} in {}; what is to be run takes about {more} more", self.out.display()));
        print(format!("time: {}", self.time()));
    }

    fn print_size(&self) {
        let (plan, experiment) = (&self.plan, &self.plan.experiment);
        print(format!(
            "{}: {}, {} cells = {} methods x {} tasks x {} seeds",
            experiment.name,
            plan.source.name,
            plan.cells.len(),
            experiment.methods.len(),
            experiment.tasks.len(),
            experiment.seeds.len(),
        ));
        if let Some((search, seed)) = plan.search() {
            print(format!(
                "{} trials before them, with seed {seed} = {} methods x {} tasks x {} learning rates",
                plan.trials.len(),
                experiment.methods.len(),
                experiment.tasks.len(),
                search.learning_rate.len(),
            ));
        }
    }

    fn print_data(&self) {
        for (task, data) in self.plan.experiment.tasks.iter().zip(&self.plan.data) {
            for split in &data.splits {
                let dropped: u64 = split.dropped.iter().map(|(_, count)| count).sum();
                print(format!(
                    "task {}, {}: {} rows, {} examples, {} tokens; {dropped} rows left out, {} examples cut",
                    task.name, split.name, split.rows, split.examples, split.tokens, split.cut
                ));
            }
        }
    }

    fn print_rows(&self) {
        let header = ["method", "task", "trained", "head", "%", "stored", "batch", "rate", "steps"];
        let line = |cell: &Cell| {
            let Parameters { trained, head, percent, stored, .. } = &cell.parameters;
            let training = &cell.training;
            let batch = match training.gradient_accumulation {
                1 => training.batch_size.to_string(),
                passes => format!("{}x{passes}", training.batch_size),
            };
            let rate = match self.plan.search() {
                Some(_) => "searched".to_owned(),
                None => format!("{:e}", training.learning_rate),
            };
            vec![
                cell.label.clone(),
                cell.task.clone(),
                grouped(*trained),
                grouped(*head),
                format!("{percent:.4}"),
                grouped(*stored),
                batch,
                rate,
                cell.steps.to_string(),
            ]
        };
        let first = self.plan.experiment.seeds[0];
        let lines = self.plan.cells.iter().filter(|cell| cell.seed == first).map(line);
        let table = text_table(&header.map(str::to_owned), lines, 2, Some(terminal::width()));
        print(format!("\n{}", table.trim_end()));
    }

    /// How long it will take, and what that is made of.
    fn time(&self) -> String {
        let (total, without) = self.times.total(&self.states);
        let (jobs, source) = (self.plan.experiment.jobs, &self.times.source);
        let unknown = match without {
            0 => String::new(),
            without => format!("; {} have nothing to tell it from", counted(without, "cell")),
        };
        match total {
            _ if self.states.open().next().is_none() => "nothing is left to run".to_owned(),
            None => "not known; `--time` measures a few steps of every row".to_owned(),
            Some(total) => {
                let at_a_time = if jobs > 1 { format!(", {jobs} at a time") } else { String::new() };
                format!("about {}{at_a_time}, from {source}{unknown}", duration(total / jobs as f64))
            }
        }
    }

    fn json(&self) -> Value {
        let states: Map<String, Value> = [(true, "trials"), (false, "cells")]
            .map(|(trials, what)| (what.to_owned(), self.states.summary(trials).json()))
            .into_iter()
            .collect();
        let cells = self.states.all.iter().map(|(cell, standing)| {
            let mut value = serde_json::to_value(cell).unwrap_or_default();
            value["state"] = standing.to_string().into();
            let to_run = !matches!(standing, Standing::Done);
            value["seconds"] = self.times.of(cell).filter(|_| to_run).into();
            value
        });
        let tasks = self.plan.experiment.tasks.iter().zip(&self.plan.data);
        let splits = tasks.flat_map(|(task, data)| {
            data.splits.iter().map(|split| {
                json!({
                    "task": task.name, "name": split.name, "rows": split.rows, "examples": split.examples,
                    "tokens": split.tokens, "cut": split.cut,
                    "dropped": split.dropped.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
                })
            })
        });
        let (total, without) = self.times.total(&self.states);
        json!({
            "experiment": self.plan.experiment.name,
            "model": self.plan.source.name,
            "out": self.out,
            "splits": splits.collect::<Vec<_>>(),
            "states": states,
            "disk": { "there_bytes": self.there, "more_bytes": self.states.disk(&self.plan) },
            "time": {
                "seconds": total.map(|total| total / self.plan.experiment.jobs as f64),
                "jobs": self.plan.experiment.jobs,
                "from": self.times.source,
                "cells_without": without,
            },
            "cells": cells.collect::<Vec<_>>(),
        })
    }
}
