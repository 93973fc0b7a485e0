use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use peftlab_harness::execute::{Line, Progress, Stage, Why};
use peftlab_harness::plan::Cell;
use peftlab_record::{Record, Status};

use crate::print;

/// Shows how a grid goes: a bar on a terminal, plain lines elsewhere.
pub(crate) struct Shown {
    bar: Option<ProgressBar>,
    /// Of this stage.
    cells: usize,
    ended: usize,
    /// Of the next.
    later: usize,
    /// What another run works on.
    waiting: usize,
    started: Instant,
    last_line: Instant,
}

/// Plain output says something about a long cell this often.
const EVERY: Duration = Duration::from_secs(10);

impl Shown {
    pub(crate) fn new() -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bar = terminal.then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{prefix} [{bar:24}] {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar
        });
        Self {
            bar,
            cells: 0,
            ended: 0,
            later: 0,
            waiting: 0,
            started: Instant::now(),
            last_line: Instant::now(),
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => print(text),
        }
    }

    /// Time left for the grid, if its cells take as long as those so far.
    fn left(&self, share_of_cell: f64) -> String {
        let done = self.ended as f64 + share_of_cell;
        if done < 0.05 {
            return "?".to_owned();
        }
        let left = self.started.elapsed().as_secs_f64() * ((self.cells + self.later) as f64 - done) / done;
        format!("{}:{:02}", left as u64 / 60, left as u64 % 60)
    }
}

fn name(cell: &Cell) -> String {
    match cell.trial {
        true => format!("{} on {}, trial of rate {:e}", cell.label, cell.task, cell.training.learning_rate),
        false => format!("{} on {}, seed {}", cell.label, cell.task, cell.seed),
    }
}

impl Progress for Shown {
    fn start(&mut self, stage: &Stage) {
        self.cells = stage.reasons.values().sum();
        (self.ended, self.later, self.waiting) = (0, stage.later, 0);
        self.started = Instant::now();
        if stage.done > 0 {
            let (done, count) = (stage.done, stage.count);
            self.say(&format!("{done} of {count} {} were done before", stage.what(count)));
        }
        if stage.done > 0 || stage.reasons.keys().any(|why| *why != Why::New) {
            for (why, count) in &stage.reasons {
                self.say(&format!("{count} {} {why}", stage.what(*count)));
            }
        }
        if stage.waiting > 0 {
            let (waiting, what) = (stage.waiting, stage.what(stage.waiting));
            self.say(&format!("{waiting} {what} cannot be run: trials of the search were stopped"));
        }
        if let (Some(bar), 0, 0) = (&self.bar, self.cells, self.later) {
            bar.finish_and_clear();
        }
    }

    fn cell(&mut self, cell: &Cell) {
        self.last_line = Instant::now();
        if let Some(bar) = &self.bar {
            bar.set_length(cell.steps as u64);
            bar.set_position(0);
            let what = if cell.trial { "trial " } else { "" };
            bar.set_prefix(format!("{what}{}/{}", self.ended + 1, self.cells));
            bar.set_message(name(cell));
        }
    }

    fn line(&mut self, cell: &Cell, line: &Line) {
        let text = match line {
            Line::Step { step, steps, loss, tokens_per_second, memory } => {
                let memory = memory.map(|bytes| format!(", {} MiB", bytes >> 20)).unwrap_or_default();
                let left = self.left(*step as f64 / *steps as f64);
                if let Some(bar) = &self.bar {
                    bar.set_position(*step);
                }
                format!(
                    "step {step}/{steps}, loss {loss:.4}, {tokens_per_second:.0} tokens/s{memory}, {left} left"
                )
            }
            Line::Validation { step, loss } => format!("step {step}, validation loss {loss:.4}"),
            // its record says so, and is told of when it is there
            Line::Panicked { .. } | Line::Failed { .. } => return,
        };
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}: {text}", name(cell))),
            None if self.last_line.elapsed() >= EVERY => {
                print(format!("  {}: {text}", name(cell)));
                self.last_line = Instant::now();
            }
            None => {}
        }
    }

    fn finish(&mut self, cell: &Cell, record: &Record) {
        self.ended += 1;
        let result = match (&record.measured, record.status) {
            (Some(measured), _) => {
                let scores = if measured.test.is_empty() { &measured.validation } else { &measured.test };
                let score = scores.first().map(|score| format!("{} {:.4}", score.metric, score.value));
                let seconds = measured.time.train;
                format!("{} ({seconds:.1} s of training)", score.unwrap_or_default())
            }
            (None, Status::OutOfMemory) => format!("OUT OF MEMORY: {}", record.message),
            (None, _) => format!("FAILED: {}", record.message),
        };
        let what = if cell.trial { "trial " } else { "" };
        self.say(&format!("[{what}{}/{}] {}: {result}", self.ended, self.cells, name(cell)));
        if let (Some(bar), true) = (&self.bar, self.ended == self.cells && self.later == 0) {
            bar.finish_and_clear();
        }
    }

    fn stopped(&mut self, cell: &Cell, why: &str) {
        self.ended += 1;
        let what = if cell.trial { "trial " } else { "" };
        self.say(&format!(
            "[{what}{}/{}] {}: STOPPED: {why}; it has no record",
            self.ended,
            self.cells,
            name(cell)
        ));
    }

    fn waits(&mut self, cells: usize) {
        if cells != self.waiting {
            self.waiting = cells;
            self.say(&format!("waiting for {cells} more that another run on this folder works on"));
        }
    }
}
