use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use peftlab_harness::execute::{Line, Progress, Stage, Why};
use peftlab_harness::plan::Cell;
use peftlab_record::{Record, Status};

use crate::terminal::{Verbosity, verbosity};
use crate::{print, say};

/// Shows how a grid goes: a line for each cell that ended, on the standard output; on a terminal a bar below them, and
/// a line for each cell that runs.
pub(crate) struct Shown {
    bars: Option<Bars>,
    verbosity: Verbosity,
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
/// Times a second that the terminal is drawn anew: more flickers.
const HERTZ: u8 = 4;

impl Shown {
    pub(crate) fn new() -> Self {
        let verbosity = verbosity();
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        Self {
            bars: (terminal && verbosity > Verbosity::Quiet).then(Bars::new),
            verbosity,
            cells: 0,
            ended: 0,
            later: 0,
            waiting: 0,
            started: Instant::now(),
            last_line: Instant::now(),
        }
    }

    /// A line that stays. It goes to the standard output also where the bars are on a terminal, so that a pipe has it.
    fn tell(&self, text: &str) {
        match &self.bars {
            _ if self.verbosity == Verbosity::Quiet => {}
            Some(bars) => bars.all.suspend(|| print(text)),
            None => print(text),
        }
    }

    /// A line about a cell that did not end well, which nobody wants to miss.
    fn warn(&self, text: &str) {
        match self.verbosity {
            Verbosity::Quiet => say(format!("warning: {text}")),
            _ => self.tell(text),
        }
    }

    /// `[3/9] lora on sentiment, seed 0`
    fn numbered(&self, cell: &Cell) -> String {
        let what = if cell.trial { "trial " } else { "" };
        format!("[{what}{}/{}] {}", self.ended, self.cells, name(cell))
    }

    fn show_total(&self) {
        let Some(bars) = &self.bars else { return };
        bars.total.set_length(self.cells as u64);
        bars.total.set_position(self.ended as u64);
        bars.total.set_prefix(format!("{}/{}", self.ended, self.cells));
        bars.total.set_message(format!("{} left", self.left()));
    }

    /// Time left for the grid, if its cells take as long as those so far.
    fn left(&self) -> String {
        let share = self.bars.as_ref().map_or(0.0, Bars::share);
        let done = self.ended as f64 + share;
        if done < 0.05 {
            return "?".to_owned();
        }
        let left = self.started.elapsed().as_secs_f64() * ((self.cells + self.later) as f64 - done) / done;
        let left = left as u64;
        format!("{}:{:02}:{:02}", left / 3600, left / 60 % 60, left % 60)
    }

    fn end(&mut self, cell: &Cell) {
        self.ended += 1;
        if let Some(bars) = &mut self.bars {
            bars.remove(cell);
        }
        self.show_total();
    }
}

/// What is drawn on a terminal.
struct Bars {
    all: MultiProgress,
    /// Of the stage.
    total: ProgressBar,
    /// Of the cells that run, by identity.
    cells: Vec<(String, ProgressBar)>,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(HERTZ));
        let total = all.add(ProgressBar::new(0).with_style(style("{prefix} [{bar:24}] {wide_msg}")));
        Self { all, total, cells: Vec::new() }
    }

    /// The line of a cell; made when it says something for the first time, for one that another run works on never does.
    fn of(&mut self, cell: &Cell) -> &ProgressBar {
        let place = self.cells.iter().position(|(identity, _)| *identity == cell.identity);
        let place = place.unwrap_or_else(|| {
            let bar = ProgressBar::new(cell.steps as u64).with_style(style("  {wide_msg}"));
            // above the total, which stays the last line
            self.cells.push((cell.identity.clone(), self.all.insert_before(&self.total, bar)));
            self.cells.len() - 1
        });
        &self.cells[place].1
    }

    fn remove(&mut self, cell: &Cell) {
        if let Some(place) = self.cells.iter().position(|(identity, _)| *identity == cell.identity) {
            self.all.remove(&self.cells.remove(place).1);
        }
    }

    /// Cells' worth of the steps that those that run have done.
    fn share(&self) -> f64 {
        let one = |bar: &ProgressBar| bar.position() as f64 / bar.length().unwrap_or(1).max(1) as f64;
        self.cells.iter().map(|(_, bar)| one(bar)).sum()
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bars) = &self.bars {
            // the terminal may be gone
            let _ = bars.all.clear();
        }
    }
}

fn name(cell: &Cell) -> String {
    match cell.trial {
        true => format!("{} on {}, trial of rate {:e}", cell.label, cell.task, cell.training.learning_rate),
        false => format!("{} on {}, seed {}", cell.label, cell.task, cell.seed),
    }
}

/// What a cell says, in words.
fn words(line: &Line) -> Option<String> {
    match line {
        Line::Step { step, steps, loss, tokens_per_second, memory } => {
            let memory = memory.map(|bytes| format!(", {} MiB", bytes >> 20)).unwrap_or_default();
            Some(format!("step {step}/{steps}, loss {loss:.4}, {tokens_per_second:.0} tokens/s{memory}"))
        }
        Line::Validation { step, loss } => Some(format!("step {step}, validation loss {loss:.4}")),
        // its record says so, and is told of when it is there
        Line::Panicked { .. } | Line::Failed { .. } => None,
    }
}

impl Progress for Shown {
    fn start(&mut self, stage: &Stage) {
        self.cells = stage.reasons.values().sum();
        (self.ended, self.later, self.waiting) = (0, stage.later, 0);
        self.started = Instant::now();
        if stage.done > 0 {
            let (done, count) = (stage.done, stage.count);
            self.tell(&format!("{done} of {count} {} were done before", stage.what(count)));
        }
        if stage.done > 0 || stage.reasons.keys().any(|why| *why != Why::New) {
            for (why, count) in &stage.reasons {
                self.tell(&format!("{count} {} {why}", stage.what(*count)));
            }
        }
        if stage.waiting > 0 {
            let (waiting, what) = (stage.waiting, stage.what(stage.waiting));
            self.warn(&format!("{waiting} {what} cannot be run: trials of the search were stopped"));
        }
        self.show_total();
    }

    fn cell(&mut self, _: &Cell) {
        self.last_line = Instant::now();
    }

    fn line(&mut self, cell: &Cell, line: &Line) {
        let Some(text) = words(line) else { return };
        if let Some(bars) = &mut self.bars {
            let bar = bars.of(cell);
            if let Line::Step { step, .. } = line {
                bar.set_position(*step);
            }
            bar.set_message(format!("{}: {text}", name(cell)));
            self.show_total();
        }
        let often = self.bars.is_none() && self.last_line.elapsed() >= EVERY;
        if self.verbosity == Verbosity::Verbose || often {
            self.tell(&format!("  {}: {text}, {} left", name(cell), self.left()));
            self.last_line = Instant::now();
        }
    }

    fn finish(&mut self, cell: &Cell, record: &Record) {
        self.end(cell);
        let cell = self.numbered(cell);
        match (&record.measured, record.status) {
            (Some(measured), _) => {
                let scores = if measured.test.is_empty() { &measured.validation } else { &measured.test };
                let score = scores.first().map(|score| format!("{} {:.4}", score.metric, score.value));
                let (score, seconds) = (score.unwrap_or_default(), measured.time.train);
                self.tell(&format!("{cell}: {score} ({seconds:.1} s of training)"));
            }
            (None, Status::OutOfMemory) => self.warn(&format!("{cell}: OUT OF MEMORY: {}", record.message)),
            (None, _) => self.warn(&format!("{cell}: FAILED: {}", record.message)),
        }
    }

    fn stopped(&mut self, cell: &Cell, why: &str) {
        self.end(cell);
        self.warn(&format!("{}: STOPPED: {why}; it has no record", self.numbered(cell)));
    }

    fn waits(&mut self, cells: usize) {
        if cells != self.waiting {
            self.waiting = cells;
            self.tell(&format!("waiting for {cells} more that another run on this folder works on"));
        }
    }
}
