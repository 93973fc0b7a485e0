//! `bench show`: the state of a results folder, or what a row came to.

mod curve;
mod row;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use peftlab_harness::execute::{running, said_path};
use peftlab_record::{PlannedCell, Record, Status};

use crate::format::{bytes, counted, disk};
use crate::results::{Results, ago};
use crate::{Outcome, print};

/// The most cells that are named one by one.
const NAMED: usize = 20;

pub(crate) fn show(dir: &Path, row: Option<&str>) -> Result<Outcome> {
    // a record's file says by itself in which folder it is
    if let (true, None) = (dir.is_file(), row) {
        let folder =
            dir.parent().and_then(Path::parent).context("a record is in a folder of a results folder")?;
        return show_record(&Results::read(folder)?, dir);
    }
    let results = Results::read(dir)?;
    match row {
        None => folder(&results),
        Some(row) if Path::new(row).is_file() => return show_record(&results, Path::new(row)),
        Some(row) => return show_row(&results, row),
    }
    Ok(Outcome::Done)
}

fn show_record(results: &Results, file: &Path) -> Result<Outcome> {
    let wanted = Record::read(file)?;
    let all = || results.runs.iter().chain(&results.trials);
    let same = |(path, record): &&(PathBuf, Record)| {
        record.identity == wanted.identity && path.file_name() == file.file_name()
    };
    let found: Vec<_> = all().filter(same).collect();
    let (_, record) = found
        .first()
        .with_context(|| format!("{}: is no record of {}", file.display(), results.dir.display()))?;
    row::print_row(results, &record.label, &record.method, &found);
    Ok(Outcome::Done)
}

fn show_row(results: &Results, row: &str) -> Result<Outcome> {
    let rows = results.rows();
    let mut named: Vec<_> = rows.iter().filter(|(label, _)| *label == row).collect();
    if named.is_empty() {
        named = rows.iter().filter(|(_, method)| *method == row).collect();
    }
    if named.is_empty() {
        let labels: Vec<String> = rows.iter().map(|(label, _)| format!("`{label}`")).collect();
        bail!("{}: no row is labelled `{row}`; there are {}", results.dir.display(), labels.join(", "));
    }
    for (label, method) in named {
        let planned = |record: &Record| results.planned(record).unwrap_or(true);
        let of_row = results.runs.iter().filter(|(_, record)| record.label == *label && planned(record));
        row::print_row(results, label, method, &of_row.collect::<Vec<_>>());
    }
    Ok(Outcome::Done)
}

/// The state of the whole folder.
fn folder(results: &Results) {
    let records: BTreeMap<&str, &(PathBuf, Record)> =
        results.runs.iter().map(|entry| (entry.1.identity.as_str(), entry)).collect();
    match &results.manifest {
        Some(manifest) => {
            print(format!(
                "{}: {}, {}, {}, {}",
                manifest.experiment,
                manifest.model,
                counted(manifest.methods.len(), "method"),
                counted(manifest.tasks.len(), "task"),
                counted(manifest.seeds.len(), "seed")
            ));
            cells(results, &manifest.cells, &records);
        }
        None => {
            let done = results.runs.iter().filter(|(_, record)| record.status == Status::Done).count();
            let failed = results.runs.len() - done;
            print(format!(
                "{}: no plan.json; {}: {done} done, {failed} failed",
                results.dir.display(),
                counted(results.runs.len(), "record")
            ));
        }
    }
    if !results.trials.is_empty() {
        let done = results.trials.iter().filter(|(_, record)| record.status == Status::Done).count();
        print(format!(
            "{}: {done} done, {} failed",
            counted(results.trials.len(), "trial"),
            results.trials.len() - done
        ));
    }
    failures(results);
    let stale = results.runs.iter().filter(|(_, record)| results.planned(record) == Some(false)).count();
    if stale > 0 {
        let (dir, what) = (results.dir.display(), counted(stale, "record"));
        print(format!("{what} of runs that the plan does not hold; `bench rm {dir} --stale` removes them"));
    }
    let last = results.runs.iter().chain(&results.trials).map(|(_, record)| record.environment.started).max();
    let last = last.map_or("never run".to_owned(), |last| format!("last cell begun {}", ago(last)));
    print(format!("{last}; {} on disk", bytes(disk(&results.dir))));
}

/// Cells by their state.
fn cells(results: &Results, planned: &[PlannedCell], records: &BTreeMap<&str, &(PathBuf, Record)>) {
    let Some(manifest) = &results.manifest else { return };
    let running = running(&results.dir);
    let mut states: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for cell in planned {
        let record = cell.identity.as_deref().and_then(|identity| records.get(identity));
        let state = match (record, &cell.identity) {
            (_, Some(identity)) if running.contains(identity) => "running",
            (Some((_, record)), _) if record.status == Status::Done => "done",
            (Some(_), _) => "failed",
            (None, Some(_)) => "not run",
            (None, None) => "waiting for the trials of their learning rates",
        };
        let (method, task) = (&manifest.methods[cell.method].label, &manifest.tasks[cell.task].name);
        states.entry(state).or_default().push(format!("{method} on {task}, seed {}", cell.seed));
    }
    let count = |state: &str| states.get(state).map_or(0, Vec::len);
    let mut parts = vec![format!("{} done", count("done"))];
    parts.extend(
        states
            .iter()
            .filter(|(state, _)| **state != "done")
            .map(|(state, cells)| format!("{} {state}", cells.len())),
    );
    print(format!("{}: {}", counted(planned.len(), "cell"), parts.join(", ")));
    for state in ["running", "not run"] {
        let cells = states.get(state).map(Vec::as_slice).unwrap_or_default();
        if !cells.is_empty() {
            print(format!("{state}:"));
            cells.iter().take(NAMED).for_each(|cell| print(format!("  {cell}")));
            if cells.len() > NAMED {
                print(format!("  and {} more", cells.len() - NAMED));
            }
        }
    }
}

fn failures(results: &Results) {
    let all = results.runs.iter().chain(&results.trials);
    let failed: Vec<_> = all.filter(|(_, record)| record.status != Status::Done).collect();
    if failed.is_empty() {
        return;
    }
    print("failed:");
    for (path, record) in failed {
        print(format!(
            "  {} on {}, seed {}: {}",
            record.label, record.task.name, record.seed, record.message
        ));
        let said = said_path(path);
        print(format!("    {}", if said.is_file() { said.display() } else { path.display() }));
    }
}
