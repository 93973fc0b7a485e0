//! Time and memory over tasks that are one task at several sizes, such as lengths of the sequence. Where the
//! tasks' names end in numbers both axes are logarithmic: a power law is a straight line, and its slope the power.

use super::canvas::{Canvas, WIDTH, Xy};
use super::font;
use super::frame::{Axis, Frame};
use super::place::{self, Block, Field, HEIGHT};
use super::scatter;
use super::style::{self, GREY, Looks, RADIUS, SMALL};
use crate::format::grouped;
use crate::grid::{Cell, Grid, Row, Task};

/// Methods that have their names at the end of their lines; of more there is a list below.
const NAMED: usize = 12;

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
        match self {
            Self::Time => "median time of a step, s",
            Self::Memory => scatter::memory(grid),
        }
    }

    /// What a point stands for, as [`Costs`](crate::grid::Costs) are over seeds.
    fn note(self) -> &'static str {
        match self {
            Self::Time => "points: median over seeds",
            Self::Memory => "points: mean over seeds",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Time => "time of a step by task",
            Self::Memory => "peak memory by task",
        }
    }
}

/// The tasks' place on the x axis.
struct Places {
    /// One for each task.
    at: Vec<f64>,
    axis: Axis,
    title: &'static str,
}

/// The number at the end of a name: 2048 of `n=2048`.
fn number(name: &str) -> Option<f64> {
    let digits = name.chars().rev().take_while(char::is_ascii_digit).count();
    name[name.len() - digits..].parse().ok().filter(|number: &f64| *number > 0.0 && number.is_finite())
}

fn places(tasks: &[Task]) -> Places {
    let numbers: Option<Vec<f64>> = tasks.iter().map(|task| number(&task.name)).collect();
    match numbers {
        Some(at) => {
            let length = |(task, number): (&Task, &f64)| task.max_length == Some(*number as u64);
            let lengths = tasks.iter().zip(&at).all(length);
            let mut ticks: Vec<(f64, String)> =
                at.iter().map(|number| (*number, grouped(*number as u64))).collect();
            ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
            Places {
                axis: Axis::log(at.iter().copied()).labelled(ticks),
                title: if lengths {
                    "length of a sequence, tokens (log scale)"
                } else {
                    "number in the task's name (log scale)"
                },
                at,
            }
        }
        None => {
            let at: Vec<f64> = (0..tasks.len()).map(|i| i as f64).collect();
            let ticks = at.iter().zip(tasks).map(|(at, task)| (*at, task.name.clone())).collect();
            Places { axis: Axis::linear(at.iter().copied(), false).labelled(ticks), title: "task", at }
        }
    }
}

/// The picture: one line for each method over all tasks. None where no method has two points, or tasks are no sizes.
pub(super) fn draw(grid: &Grid, measure: Measure) -> Option<Canvas> {
    let measured =
        |row: &crate::grid::Row| row.cells.iter().filter(|cell| measure.of(cell).is_some()).count();
    if !grid.extras.by_task || !grid.rows.iter().any(|row| measured(row) > 1) {
        return None;
    }
    let places = places(&grid.tasks);
    let values = grid.rows.iter().flat_map(|row| &row.cells).filter_map(|cell| measure.of(cell));
    let y = if places.axis.is_log() { Axis::log(values) } else { Axis::linear(values, true) };
    let looks = Looks::new(&grid.rows);
    let mut canvas = Canvas::default();
    let top = style::title(&mut canvas, grid, measure.title());
    let label = y.title(measure.label(grid));
    let named = grid.rows.len() <= NAMED;
    let names: Vec<String> = grid.rows.iter().map(|row| font::fit(&row.label, SMALL, 120.0)).collect();
    let room =
        if named { names.iter().map(|name| font::width(name, SMALL)).fold(0.0, f64::max) } else { 0.0 };
    let frame = Frame::within((0.0, top), (WIDTH - room, 260.0), places.axis, y);
    frame.draw(&mut canvas, "", places.title, &label);
    let mut order: Vec<usize> = (0..places.at.len()).collect();
    order.sort_by(|a, b| places.at[*a].total_cmp(&places.at[*b]));
    let points = |row: &Row| -> Vec<Option<Xy>> {
        let point = |task: &usize| Some(frame.at(places.at[*task], measure.of(&row.cells[*task])?));
        order.iter().map(point).collect()
    };
    for (row, look) in grid.rows.iter().zip(&looks.rows) {
        // a run that failed leaves a gap: no line goes over it
        for part in points(row).split(Option::is_none) {
            canvas.line(part.iter().copied().flatten().collect(), 1.0, look.colour);
        }
    }
    if named {
        let ends = grid.rows.iter().zip(names).filter_map(|(row, name)| {
            let at = points(row).into_iter().flatten().next_back()?;
            Some((place::Point { at, width: font::width(&name, SMALL) + 1.0, bar: 0.0 }, name))
        });
        let (ends, names): (Vec<_>, Vec<_>) = ends.unzip();
        let (left, bottom) = (frame.left, frame.top + frame.height);
        let outer = Block { left, top: frame.top, right: WIDTH, bottom };
        let field = Field { points: &ends, lines: Vec::new(), outer, radius: RADIUS, height: HEIGHT };
        field.draw(&mut canvas, &names);
    }
    for (row, look) in grid.rows.iter().zip(&looks.rows) {
        for point in points(row).into_iter().flatten() {
            style::marker(&mut canvas, point, *look);
        }
    }
    let mut end = top + 262.0;
    end += style::families(&mut canvas, &looks, end);
    if !named {
        end += style::rows(&mut canvas, grid, &looks, end, false);
    }
    let failed = grid.rows.iter().any(|row| row.cells.iter().any(|cell| cell.failure.is_some()));
    let note = format!("{}{}", measure.note(), if failed { "; no point: that run failed" } else { "" });
    end += canvas.paragraph(&note, (0.0, end), WIDTH, SMALL, GREY);
    canvas.height = end + 4.0;
    Some(canvas)
}
