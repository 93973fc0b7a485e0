//! Time and memory over tasks that are one task at several sizes, such as lengths of the sequence. Where the
//! tasks' names end in numbers both axes are logarithmic: a power law is a straight line, and its slope the power.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

use super::{Drawn, GREY, chart, colour, font, marker, text};
use crate::format::{grouped, significant};
use crate::grid::{Cell, Grid, Task};

/// What is drawn over the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Time,
    Memory,
}

impl Measure {
    fn of(self, cell: &Cell) -> Option<f64> {
        match self {
            Self::Time => cell.costs.step_seconds,
            Self::Memory => cell.costs.peak_memory.map(|bytes| bytes / f64::from(1 << 20)),
        }
        .filter(|value| *value > 0.0 && value.is_finite())
    }

    fn label(self, grid: &Grid) -> &'static str {
        match (self, grid.on_device) {
            (Self::Time, _) => "median time of a step, s",
            (Self::Memory, true) => "peak memory of the GPU, MiB",
            (Self::Memory, false) => "peak memory allocated on the host, MiB",
        }
    }

    /// What a point stands for, as [`Costs`](crate::grid::Costs) are over seeds.
    pub(super) fn note(self) -> &'static str {
        match self {
            Self::Time => "median over seeds",
            Self::Memory => "mean over seeds",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Time => "time of a step",
            Self::Memory => "peak memory",
        }
    }
}

/// The tasks' place on the x axis.
struct Places {
    /// One for each task.
    at: Vec<f64>,
    ticks: Vec<String>,
    title: &'static str,
    log: bool,
}

/// A linear axis with labels at points of its own.
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        start + (f64::from(end - start) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// The number at the end of a name: 2048 of `n=2048`.
fn number(name: &str) -> Option<f64> {
    let digits = name.chars().rev().take_while(char::is_ascii_digit).count();
    name[name.len() - digits..].parse().ok().filter(|number| *number > 0.0)
}

fn places(tasks: &[Task]) -> Places {
    let numbers: Option<Vec<f64>> = tasks.iter().map(|task| number(&task.name)).collect();
    match numbers {
        Some(numbers) => {
            let length = |(task, number): (&Task, &f64)| task.max_length == Some(*number as u64);
            let lengths = tasks.iter().zip(&numbers).all(length);
            Places {
                at: numbers.iter().map(|number| number.ln()).collect(),
                ticks: numbers.iter().map(|number| grouped(*number as u64)).collect(),
                title: if lengths {
                    "length of a sequence, tokens (log scale)"
                } else {
                    "number in the task's name (log scale)"
                },
                log: true,
            }
        }
        None => Places {
            at: (0..tasks.len()).map(|i| i as f64).collect(),
            ticks: tasks.iter().map(|task| task.name.clone()).collect(),
            title: "task",
            log: false,
        },
    }
}

/// The y axis of `values`, in their logarithms where it is logarithmic.
fn heights(values: &[f64], log: bool) -> Axis {
    let (low, high) =
        values.iter().fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), v| (low.min(*v), high.max(*v)));
    // of what no run measures a part of the axis is drawn: its numbers would end
    let (low, high) =
        if low > high { (1.0, 10.0) } else { (low.clamp(1e-200, 1e200), high.clamp(1e-200, 1e200)) };
    if !log {
        let ticks = round_steps(high).collect();
        return Axis { range: 0.0..1.08 * high, ticks };
    }
    // some room, and never so little that the axis has no round number on it
    let room = (high / low).powf(0.08).max(1.5);
    let (low, high) = (low / room, high * room);
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let round = |digits: &[f64]| -> Vec<f64> {
        let all = decades.clone().flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
        all.filter(|value| (low..=high).contains(value)).map(f64::ln).collect()
    };
    let few = round(&[1.0, 2.0, 5.0]);
    let ticks = if few.len() > 2 { few } else { round(&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]) };
    Axis { range: low.ln()..high.ln(), ticks }
}

/// From 0 to `high` in four to ten round steps.
fn round_steps(high: f64) -> impl Iterator<Item = f64> {
    let power = 10f64.powf(high.log10().floor());
    let step = [0.1, 0.2, 0.5, 1.0].into_iter().map(|share| share * power).find(|step| high / step <= 10.0);
    let step = step.unwrap_or(power);
    (0..=(high / step) as usize).map(move |i| i as f64 * step)
}

/// One line for each method over all tasks.
pub(super) fn draw<DB: DrawingBackend>(
    panel: &DrawingArea<DB, Shift>,
    grid: &Grid,
    measure: Measure,
) -> Drawn {
    let places = places(&grid.tasks);
    let values: Vec<f64> =
        grid.rows.iter().flat_map(|row| &row.cells).filter_map(|cell| measure.of(cell)).collect();
    let (first, last) =
        places.at.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), at| (a.min(*at), b.max(*at)));
    let room = 0.08 * (last - first).max(1.0);
    let x = Axis { range: first - room..last + room, ticks: places.at.clone() };
    let caption = format!("{}: {} by task", grid.name, measure.title());
    let mut chart = chart(panel, &caption, x, heights(&values, places.log))?;
    let scaled = |value: f64| if places.log { value.ln() } else { value };
    let tick = |at: &f64| {
        let found = places.at.iter().position(|place| place == at);
        found.map(|i| places.ticks[i].clone()).unwrap_or_default()
    };
    let height = |at: &f64| {
        let value = if places.log { at.exp() } else { *at };
        if value > 999.5 {
            return grouped(value.round() as u64);
        }
        // a tick is a round number: the zeros behind it say nothing
        let digits = significant(value);
        if digits.contains('.') {
            digits.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            digits
        }
    };
    let label = format!("{}{}", measure.label(grid), if places.log { " (log scale)" } else { "" });
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(places.title).y_desc(label).x_label_formatter(&tick).y_label_formatter(&height);
    mesh.axis_desc_style(font(13)).label_style(font(12)).light_line_style(TRANSPARENT);
    mesh.bold_line_style(GREY.mix(0.15)).draw().map_err(text)?;
    let mut order: Vec<usize> = (0..places.at.len()).collect();
    order.sort_by(|a, b| places.at[*a].total_cmp(&places.at[*b]));
    for (i, row) in grid.rows.iter().enumerate() {
        let points: Vec<Option<(f64, f64)>> = order
            .iter()
            .map(|task| Some((places.at[*task], scaled(measure.of(&row.cells[*task])?))))
            .collect();
        // a run that failed leaves a gap: no line goes over it
        for part in points.split(Option::is_none) {
            let part = part.iter().copied().flatten();
            chart.draw_series(LineSeries::new(part, colour(i).stroke_width(2))).map_err(text)?;
        }
        for point in points.iter().flatten() {
            let place = chart.backend_coord(point);
            // the chart's coordinates are the whole picture's, the panel's are its own
            let (dx, dy) = panel.get_base_pixel();
            marker(panel, (place.0 - dx, place.1 - dy), i)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made::{Made, grid};

    /// Methods of several powers of the length; the last runs out of memory at the longest.
    fn lengths() -> Grid {
        const TASKS: [&str; 5] = ["n=512", "n=1024", "n=2048", "n=4096", "n=8192"];
        let methods =
            [("full attention", 1.9), ("shifted sparse", 1.2), ("lora r=8 q,v", 1.0), ("qlora r=8", 1.6)];
        let mut made = Vec::new();
        for (row, (label, power)) in methods.into_iter().enumerate() {
            for (task, name) in TASKS.iter().enumerate() {
                let size: f64 = number(name).unwrap() / 512.0;
                made.push(Made {
                    row,
                    label: Some(label),
                    task,
                    tasks: &TASKS,
                    kind: "causal-lm",
                    step_seconds: (0.05 + 0.02 * row as f64) * size.powf(power),
                    peak_bytes: ((400.0 + 300.0 * size.powf(power)) * f64::from(1 << 20)) as u64,
                    out_of_memory: row == 3 && task == 4,
                    ..Made::default()
                });
            }
        }
        grid(&made)
    }

    #[test]
    fn numbers_of_names_are_places() {
        assert_eq!(
            (number("n=2048"), number("512"), number("text"), number("n=0")),
            (Some(2048.0), Some(512.0), None, None)
        );
        let places = places(&lengths().tasks);
        assert!(places.log && places.title.contains("tokens"));
        assert_eq!(places.ticks[4], "8,192");
    }

    #[test]
    fn axes_have_round_numbers() {
        let ticks = |values: &[f64], log| -> Vec<String> {
            let Axis { range, ticks } = heights(values, log);
            assert!(ticks.iter().all(|tick| (range.start..=range.end).contains(tick)), "{range:?} {ticks:?}");
            ticks.iter().map(|tick| format!("{:.3}", if log { tick.exp() } else { *tick })).collect()
        };
        assert_eq!(ticks(&[0.05, 0.3], true), ["0.050", "0.100", "0.200"]);
        assert_eq!(ticks(&[100.0, 110.0], true), ["80.000", "100.000", "150.000"]);
        assert_eq!(
            ticks(&[3.0, 4.0], false),
            ["0.000", "0.500", "1.000", "1.500", "2.000", "2.500", "3.000", "3.500", "4.000"]
        );
        assert!(ticks(&[], true).len() > 2);
    }

    #[test]
    fn plots_over_lengths_are_drawn_where_tasks_are_lengths() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let files = super::super::all(&lengths(), dir).unwrap();
        for name in
            ["time-by-length.svg", "time-by-length.png", "memory-by-length.svg", "memory-by-length.png"]
        {
            assert!(files.contains(&dir.join(name)) && dir.join(name).is_file(), "{name}");
        }
        let svg = std::fs::read_to_string(dir.join("time-by-length.svg")).unwrap();
        for said in [
            "length of a sequence, tokens (log scale)",
            "median time of a step, s",
            "8,192",
            "that run failed",
        ] {
            assert!(svg.contains(said), "{said}");
        }
        let one = super::super::all(&grid(&[Made::default()]), dir).unwrap();
        assert!(!one.iter().any(|file| file.ends_with("time-by-length.svg")));
    }
}
