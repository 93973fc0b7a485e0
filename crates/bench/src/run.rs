//! `bench run`, and the process that it starts for each cell.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use peftlab_harness::execute::{
    Count, Executor, Line, Outcome as GridOutcome, Processes, Wanted, Worked, run_grid, work,
};
use peftlab_harness::plan::Plan;
use peftlab_peft::Registry;
use peftlab_report::Options;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::progress::Shown;
use crate::terminal::{self, Verbosity};
use crate::{Outcome, print, say, warn};

/// The results folder of the experiment `name`, where none is given.
pub(crate) fn results_folder(out: Option<&Path>, name: &str) -> PathBuf {
    out.map_or_else(|| Path::new("results").join(name), PathBuf::from)
}

pub(crate) fn experiment(
    file: &Path,
    out: Option<&Path>,
    wanted: &Wanted,
    options: &Options,
    registry: &Registry,
) -> Result<Outcome> {
    let plan = Plan::read(file, registry)?;
    let tasks: Vec<&str> = plan.experiment.tasks.iter().map(|task| task.name.as_str()).collect();
    options.check(&tasks)?;
    warn(&plan.all_warnings());
    let out = results_folder(out, &plan.experiment.name);
    let executor = Arc::new(Processes::new()?);
    stop_at_signals(&executor)?;
    let outcome = run_grid(&plan, &out, wanted, &*executor, &mut Shown::new())?;
    if executor.stopped() {
        let done = outcome.cells.all - outcome.cells.open;
        say(format!(
            "stopped: {done} of {} cells have ended, and their records are kept in {}; the same command goes on from \
             there, `bench report {}` draws what there is",
            outcome.cells.all,
            out.display(),
            out.display()
        ));
        return Ok(Outcome::Interrupted);
    }
    let report = peftlab_report::report(&out, options)?;
    warn(&report.warnings);
    print(format!("\n{}", report.text));
    if terminal::verbosity() > Verbosity::Quiet {
        print(format!("Table, plots, records: {}", out.display()));
    }
    Ok(summary(&outcome, &out))
}

/// At the first signal what runs is ended, and at the second this process, too. SIGHUP stays what it is: to be ignored
/// under `nohup`, and else to end this process, with which its cells end.
pub(crate) fn stop_at_signals(executor: &Arc<Processes>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("signals cannot be caught")?;
    let executor = Arc::clone(executor);
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if executor.stopped() {
                std::process::exit(Outcome::Interrupted.code());
            }
            executor.stop();
        }
    });
    Ok(())
}

/// Says what did not end well.
fn summary(outcome: &GridOutcome, out: &Path) -> Outcome {
    let stages: [(Count, &str); 2] = [(outcome.trials, "trials"), (outcome.cells, "cells")];
    for (count, what) in stages {
        if count.failed > 0 {
            print(format!(
                "{} of {} {what} failed; their records in {} say why, and *.stderr.txt beside them the rest.",
                count.failed,
                count.all,
                out.display()
            ));
        }
        if count.open > 0 {
            print(format!(
                "{} of {} {what} were stopped, or wait for trials that were; the same command runs them.",
                count.open, count.all
            ));
        }
    }
    // a trial that diverged has told what it was run for
    let bad = outcome.cells.failed + outcome.cells.open + outcome.trials.open;
    if bad == 0 { Outcome::Done } else { Outcome::Failed }
}

/// Runs the cell that the standard input tells of, and says on the standard output how it goes.
pub(crate) fn cell(registry: &Registry) -> Result<Outcome> {
    fn tell(line: &Line) {
        if let Ok(line) = serde_json::to_string(line) {
            print(line);
        }
    }
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(|place| format!(", at {place}")).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("a panic without a message");
        tell(&Line::Panicked { message: format!("{message}{place}") });
        usual(panic);
    }));
    match work(registry, &mut tell) {
        Ok(Worked::Done) => Ok(Outcome::Done),
        Ok(Worked::Claimed) => Ok(Outcome::Claimed),
        Err(error) => {
            tell(&Line::Failed { message: error.to_string() });
            Err(error.into())
        }
    }
}
