//! Scores against what they cost, with the Pareto front: the points that none beats in both.

use super::canvas::{Anchor, Canvas, WIDTH, Xy};
use super::font;
use super::frame::{Axis, Frame};
use super::place::{self, Block, Field, HEIGHT};
use super::style::{self, GREY, Looks, NORMAL, RADIUS, SMALL};
use crate::grid::{Grid, Task};

/// What a score is drawn against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Against {
    Parameters,
    Memory,
    Time,
}

impl Against {
    fn of(self, grid: &Grid, row: usize, column: usize) -> Option<f64> {
        let row = &grid.rows[row];
        let costs = &row.cells[column].costs;
        match self {
            Self::Parameters => Some(row.trained as f64),
            Self::Memory => costs.peak_memory.map(|bytes| bytes / f64::from(1 << 20)),
            Self::Time => costs.step_seconds.map(|seconds| 1000.0 * seconds),
        }
        .filter(|value| value.is_finite())
    }

    fn label(self, grid: &Grid) -> &'static str {
        match self {
            Self::Parameters => "trained parameters",
            Self::Memory => memory(grid),
            Self::Time => "median time of a step, ms",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Parameters => "score against trained parameters",
            Self::Memory => "score against peak memory",
            Self::Time => "score against time",
        }
    }
}

/// What the peak of memory is of.
pub(super) fn memory(grid: &Grid) -> &'static str {
    if grid.on_device { "peak memory of the GPU, MiB" } else { "peak memory allocated on the host, MiB" }
}

/// A method's place.
#[derive(Clone, Copy, Debug)]
struct Point {
    row: usize,
    x: f64,
    y: f64,
    /// Over seeds; 0 with one.
    deviation: f64,
}

/// Names stand beside points; where panels are too small for that, numbers.
#[derive(Clone, Copy)]
struct Layout {
    columns: usize,
    /// Height of a panel.
    height: f64,
    numbered: bool,
}

impl Layout {
    fn new(rows: usize, tasks: usize) -> Self {
        let single = tasks == 1 || (tasks == 2 && rows > 10);
        let numbered = !single && rows > 10;
        let height = if single { 235.0 + 3.2 * (rows.max(16) - 16) as f64 } else { 185.0 };
        Self { columns: if single { 1 } else { 2 }, height, numbered }
    }
}

/// The picture; none where no task has two methods at different places.
pub(super) fn draw(grid: &Grid, against: Against) -> Option<Canvas> {
    let columns: Vec<(&Task, Vec<Point>)> = grid
        .tasks
        .iter()
        .enumerate()
        .map(|(column, task)| (task, points(grid, task, column, against)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let differ =
        |points: &[Point]| points.iter().any(|p| (p.x - points[0].x).abs() > 0.01 * points[0].x.abs());
    if !columns.iter().any(|(_, points)| differ(points)) {
        return None;
    }
    let looks = Looks::new(&grid.rows);
    let layout = Layout::new(grid.rows.len(), columns.len());
    let mut canvas = Canvas::default();
    let top = style::title(&mut canvas, grid, against.title());
    let size = (WIDTH / layout.columns as f64, layout.height);
    for (i, (task, points)) in columns.iter().enumerate() {
        let at = (size.0 * (i % layout.columns) as f64, top + size.1 * (i / layout.columns) as f64);
        panel(&mut canvas, grid, &looks, (task, points), against, (at, size, layout.numbered));
    }
    let mut end = top + size.1 * columns.len().div_ceil(layout.columns) as f64 + 2.0;
    end += style::families(&mut canvas, &looks, end);
    if layout.numbered {
        end += style::rows(&mut canvas, grid, &looks, end, true);
    }
    end += canvas.paragraph(&note(grid, columns.len()), (0.0, end), WIDTH, SMALL, GREY);
    canvas.height = end + 4.0;
    Some(canvas)
}

fn points(grid: &Grid, task: &Task, column: usize, against: Against) -> Vec<Point> {
    let point = |row: usize| {
        let cell = &grid.rows[row].cells[column];
        let deviation = task.shown(cell.deviation().unwrap_or(0.0));
        let y = task.shown(cell.mean().filter(|mean| mean.is_finite())?);
        Some(Point { row, x: against.of(grid, row, column)?, y, deviation })
    };
    (0..grid.rows.len()).filter_map(point).collect()
}

fn note(grid: &Grid, drawn: usize) -> String {
    let spread =
        style::seeds(grid, "points: mean over up to {} seeds; bars: one sample deviation to either side");
    let lacking: Vec<&str> = grid
        .rows
        .iter()
        .filter(|row| row.cells.iter().any(|cell| cell.mean().is_none()))
        .map(|row| row.label.as_str())
        .collect();
    let lacking = match lacking.len() {
        0 => String::new(),
        1..=4 => format!("; without a score on some task: {}", lacking.join(", ")),
        many => format!("; {many} methods have no score on some task"),
    };
    let tasks = match grid.tasks.len() - drawn {
        0 => "",
        _ => "; tasks on which nothing has a score are left out",
    };
    format!("{spread}; dashed: the Pareto front, methods that none beats in both{lacking}{tasks}")
}

/// The points that none beats in both, by ascending cost.
fn front(points: &[Point], higher_is_better: bool) -> Vec<Point> {
    let sign = if higher_is_better { 1.0 } else { -1.0 };
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.x.total_cmp(&b.x).then((sign * b.y).total_cmp(&(sign * a.y))));
    let mut best = f64::NEG_INFINITY;
    sorted.retain(|point| {
        let better = sign * point.y > best;
        best = best.max(sign * point.y);
        better
    });
    sorted
}

fn panel(
    canvas: &mut Canvas,
    grid: &Grid,
    looks: &Looks,
    (task, points): (&Task, &[Point]),
    against: Against,
    (at, size, numbered): (Xy, Xy, bool),
) {
    let values = points.iter().map(|point| point.x);
    let x = if against == Against::Parameters { Axis::log(values) } else { Axis::fitting(values) };
    let y = Axis::linear(points.iter().flat_map(|p| [p.y - p.deviation, p.y + p.deviation]), false);
    let x_title = x.title(against.label(grid));
    let frame = Frame::within(at, size, x, y);
    frame.draw(canvas, &task.name, &x_title, &style::score(task));
    let steps =
        front(points, task.higher_is_better).windows(2).fold(Vec::new(), |mut steps: Vec<Xy>, pair| {
            steps.extend([(pair[0].x, pair[0].y), (pair[1].x, pair[0].y), (pair[1].x, pair[1].y)]);
            steps
        });
    let steps: Vec<Xy> = steps.into_iter().map(|(x, y)| frame.at(x, y)).collect();
    for p in points.iter().filter(|point| point.deviation > 0.0) {
        let bar = vec![frame.at(p.x, p.y - p.deviation), frame.at(p.x, p.y + p.deviation)];
        canvas.line(bar, 0.7, looks.rows[p.row].colour.faint(60));
    }
    canvas.dashed(steps.clone(), 0.7, GREY.faint(70));
    let limit = frame.width * 0.45;
    let name = |p: &Point| match numbered {
        true => (p.row + 1).to_string(),
        false => font::fit(&grid.rows[p.row].label, SMALL, limit.min(150.0)),
    };
    let names: Vec<String> = points.iter().map(name).collect();
    let to_place: Vec<place::Point> = points
        .iter()
        .zip(&names)
        .map(|(p, name)| place::Point {
            at: frame.at(p.x, p.y),
            width: font::width(name, SMALL) + 1.0,
            bar: (frame.at(p.x, p.y - p.deviation).1 - frame.at(p.x, p.y).1).abs(),
        })
        .collect();
    let outer = Block {
        left: frame.left + 1.0,
        top: frame.top,
        right: frame.left + frame.width + 7.0,
        bottom: frame.top + frame.height - 1.0,
    };
    let lines = steps.windows(2).map(|pair| Block::between(pair[0], pair[1])).collect();
    let field = Field { points: &to_place, lines, outer, radius: RADIUS, height: HEIGHT };
    field.draw(canvas, &names);
    for p in points {
        style::marker(canvas, frame.at(p.x, p.y), looks.rows[p.row]);
    }
    if points.len() == 1 {
        let text = "one method alone has a score here";
        canvas.text(text, (frame.left + 6.0, frame.top + 12.0), NORMAL, Anchor::Start, GREY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_holds_what_none_beats_in_both() {
        let point = |row: usize, x: f64, y: f64| Point { row, x, y, deviation: 0.0 };
        let points = [
            point(0, 5.0, 9.0),
            point(1, 1.0, 3.0),
            point(2, 1.0, 2.0),
            point(3, 3.0, 3.0),
            point(4, 2.0, 7.0),
        ];
        let rows = |higher| front(&points, higher).iter().map(|point| point.row).collect::<Vec<_>>();
        assert_eq!(rows(true), [1, 4, 0]);
        assert_eq!(rows(false), [2]);
    }
}
