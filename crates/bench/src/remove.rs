//! `bench rm`: takes records out of a results folder, with all that is beside them.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{ArgGroup, Args};
use peftlab_harness::execute::{files, remove};
use peftlab_record::{Record, Status};

use crate::format::{bytes, counted};
use crate::results::Results;
use crate::wanted::WantedCells;
use crate::{Outcome, print, say};

/// One of these at the least says which records are meant: a folder is not emptied by a word too few.
const WHICH: [&str; 5] = ["only", "task", "seed", "failed", "stale"];

/// Which records are removed: those that have all that is asked for.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("which").required(true).multiple(true).args(WHICH)))]
pub(crate) struct RemoveArguments {
    /// The results folder.
    dir: PathBuf,
    #[command(flatten)]
    cells: WantedCells,
    /// Records of cells that did not end well.
    #[arg(long)]
    failed: bool,
    /// Records of cells that the plan of the folder's last run does not hold; trials are none of them.
    #[arg(long)]
    stale: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

pub(crate) fn run(arguments: &RemoveArguments) -> Result<Outcome> {
    let results = Results::read(&arguments.dir)?;
    if arguments.stale && results.manifest.is_none() {
        bail!("--stale: {} has no plan.json that says which records it holds", results.dir.display());
    }
    check(arguments, &results)?;
    let all = results.runs.iter().chain(&results.trials);
    let chosen: Vec<_> = all.filter(|(_, record)| arguments.has(&results, record)).collect();
    if chosen.is_empty() {
        print("no record is like that; nothing was removed");
        return Ok(Outcome::Done);
    }
    let mut size = 0;
    for (path, record) in &chosen {
        let files = files(path)?;
        size += files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum::<u64>();
        print(format!("{} ({}, {})", path.display(), record.label, counted(files.len(), "file")));
    }
    if !arguments.yes && !agreed(&format!("remove {} ({})?", counted(chosen.len(), "record"), bytes(size)))? {
        print("nothing was removed");
        return Ok(Outcome::Done);
    }
    let (mut removed, mut outcome) = (0, Outcome::Done);
    for (path, record) in &chosen {
        match remove(&results.dir, path, record)? {
            Some(_) => removed += 1,
            None => {
                say(format!("warning: {}: is kept, for a run works on its cell", path.display()));
                outcome = Outcome::Failed;
            }
        }
    }
    print(format!(
        "{} removed; tables are drawn anew by `bench report {}`",
        counted(removed, "record"),
        results.dir.display()
    ));
    Ok(outcome)
}

impl RemoveArguments {
    fn has(&self, results: &Results, record: &Record) -> bool {
        // what a plan holds of trials it does not say
        let is_stale = || results.planned(record) == Some(false) && !is_trial(results, record);
        let wanted = self.cells.parsed();
        wanted.names(&record.label, &record.method, &record.task.name)
            && (wanted.seeds.is_empty() || wanted.seeds.contains(&record.seed))
            && (!self.failed || record.status != Status::Done)
            && (!self.stale || is_stale())
    }
}

fn is_trial(results: &Results, record: &Record) -> bool {
    results.trials.iter().any(|(_, trial)| std::ptr::eq(trial, record))
}

/// What is named must be there: a slip of the pen must not pass for a folder without such records.
fn check(arguments: &RemoveArguments, results: &Results) -> Result<()> {
    let all = || results.runs.iter().chain(&results.trials).map(|(_, record)| record);
    let known = |flag: &str, given: &[String], known: Vec<&String>| -> Result<()> {
        let Some(wrong) = given.iter().find(|name| !known.contains(name)) else { return Ok(()) };
        let mut known: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).collect();
        known.sort();
        known.dedup();
        bail!("{flag}: no record is of `{wrong}`; there are {}", known.join(", "))
    };
    known(
        "--only",
        &arguments.cells.only,
        all().flat_map(|record| [&record.label, &record.method]).collect(),
    )?;
    known("--task", &arguments.cells.task, all().map(|record| &record.task.name).collect())
}

/// Asks on the terminal.
fn agreed(question: &str) -> Result<bool> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        bail!("{question} say so with --yes: there is no terminal to ask on");
    }
    // a prompt stands before its answer
    let mut error = std::io::stderr();
    let _ = write!(error, "{question} [y/N] ").and_then(|()| error.flush());
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
