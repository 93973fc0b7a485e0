//! Plots as SVG and PNG, from the same drawing. Methods are told apart by a legend, not by labels in the plot:
//! nothing can overlap. Colours are Okabe and Ito's, which colour-blind readers tell apart, and markers differ.

mod lengths;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use peftlab_record::write_atomic;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::ReportError;
use crate::format::size;
use crate::grid::{Grid, Row, Task};
use lengths::Measure;

const FONT: &[u8] = include_bytes!("../../../assets/fonts/DejaVuSans.ttf");
const FAMILY: &str = "DejaVu Sans, sans-serif";
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(204, 121, 167),
    RGBColor(150, 140, 20),
];
const GREY: RGBColor = RGBColor(110, 110, 110);
/// Width of a panel and of the legend, and height, in pixels.
const PANEL: u32 = 480;
const LEGEND: u32 = 250;
const HEIGHT: u32 = 420;

type Drawn = Result<(), String>;
type Draw<'a> = &'a dyn Fn(&dyn Canvas) -> Drawn;

/// A drawing area of either kind.
trait Canvas {
    fn scatter(&self, grid: &Grid, axis: Axis) -> Drawn;
    fn bars(&self, grid: &Grid) -> Drawn;
    fn losses(&self, grid: &Grid) -> Drawn;
    fn lengths(&self, grid: &Grid, measure: Measure) -> Drawn;
}

/// What a score is drawn against.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Axis {
    Parameters,
    Memory,
}

impl Axis {
    fn of(self, row: &Row) -> Option<f64> {
        match self {
            Self::Parameters => Some(row.trained as f64).filter(|trained| *trained > 0.0),
            Self::Memory => row.peak_memory.map(|bytes| bytes / f64::from(1 << 20)),
        }
    }

    fn label(self, grid: &Grid) -> &'static str {
        match (self, grid.on_device) {
            (Self::Parameters, _) => "trained parameters (log scale)",
            (Self::Memory, true) => "peak memory of the GPU, MiB",
            (Self::Memory, false) => "peak memory allocated on the host, MiB",
        }
    }
}

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

/// Draws every plot into the folder `dir`.
pub(crate) fn all(grid: &Grid, dir: &Path) -> Result<Vec<PathBuf>, ReportError> {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        // the font is part of the program: it is one
        let _ = register_font(FAMILY, FontStyle::Normal, FONT);
    });
    std::fs::create_dir_all(dir)
        .map_err(|error| ReportError::Plot { path: dir.to_owned(), message: error.to_string() })?;
    let panels = PANEL * grid.tasks.len().max(1) as u32 + LEGEND;
    let bars = 90 + 30 * grid.rows.len() as u32;
    let lengths = (PANEL + LEGEND, HEIGHT);
    let plots: [(&str, (u32, u32), Draw<'_>); 6] = [
        ("score-parameters", (panels, HEIGHT), &|canvas| canvas.scatter(grid, Axis::Parameters)),
        ("score-memory", (panels, HEIGHT), &|canvas| canvas.scatter(grid, Axis::Memory)),
        ("memory", (PANEL + LEGEND, bars), &|canvas| canvas.bars(grid)),
        ("loss", (panels, HEIGHT), &|canvas| canvas.losses(grid)),
        ("time-by-length", lengths, &|canvas| canvas.lengths(grid, Measure::Time)),
        ("memory-by-length", lengths, &|canvas| canvas.lengths(grid, Measure::Memory)),
    ];
    // the last two are of tasks that are lengths
    let drawn = if grid.extras.by_task { 6 } else { 4 };
    let mut files = Vec::new();
    for (name, pixels, draw) in plots.into_iter().take(drawn) {
        for extension in ["svg", "png"] {
            let path = dir.join(format!("{name}.{extension}"));
            let failed = |message: String| ReportError::Plot { path: path.clone(), message };
            if extension == "svg" {
                let mut svg = String::new();
                draw(&SVGBackend::with_string(&mut svg, pixels).into_drawing_area()).map_err(failed)?;
                write_atomic(&path, svg.as_bytes())?;
            } else {
                // plotters writes the file itself; what is half-written is not yet called by its name
                let partial = dir.join(format!(".{name}.partial.png"));
                draw(&BitMapBackend::new(&partial, pixels).into_drawing_area()).map_err(failed)?;
                std::fs::rename(&partial, &path).map_err(|error| failed(error.to_string()))?;
            }
            files.push(path);
        }
    }
    Ok(files)
}

fn font(pixels: i32) -> TextStyle<'static> {
    TextStyle::from((FAMILY, pixels).into_font()).color(&BLACK)
}

fn colour(row: usize) -> RGBColor {
    COLOURS[row % COLOURS.len()]
}

impl<DB: DrawingBackend> Canvas for DrawingArea<DB, Shift> {
    fn scatter(&self, grid: &Grid, axis: Axis) -> Drawn {
        let area = prepared(self)?;
        let (panels, legend) = area.split_horizontally(PANEL as i32 * grid.tasks.len().max(1) as i32);
        for (column, panel) in panels.split_evenly((1, grid.tasks.len().max(1))).iter().enumerate() {
            let Some(task) = grid.tasks.get(column) else { break };
            let points: Vec<Point> = grid
                .rows
                .iter()
                .enumerate()
                .filter_map(|(i, row)| point(i, row, task, column, axis))
                .collect();
            let x = range(points.iter().map(|p| p.x), axis == Axis::Parameters);
            let y = range(points.iter().flat_map(|p| [p.y - p.deviation, p.y + p.deviation]), false);
            match axis {
                Axis::Parameters => scatter(panel, grid, task, axis, &points, x.log_scale(), y)?,
                Axis::Memory => scatter(panel, grid, task, axis, &points, x, y)?,
            }
        }
        draw_legend(&legend, grid, "bars: deviation over seeds")?;
        self.present().map_err(text)
    }

    fn bars(&self, grid: &Grid) -> Drawn {
        let area = prepared(self)?;
        let title = if grid.on_device {
            "peak memory of the GPU"
        } else {
            "peak memory allocated on the host, training"
        };
        area.draw_text(&format!("{}: {title} (MiB)", grid.name), &font(15), (12, 12)).map_err(text)?;
        let largest = grid.rows.iter().filter_map(|row| row.peak_memory).fold(1.0, f64::max);
        let (left, width) = (LEGEND as i32, PANEL as i32 - 90);
        for (i, row) in grid.rows.iter().enumerate() {
            let top = 44 + 30 * i as i32;
            let style = font(13).pos(right_middle());
            area.draw_text(&shortened(&row.label), &style, (left - 10, top + 10)).map_err(text)?;
            let Some(peak) = row.peak_memory else { continue };
            let end = |bytes: f64| left + (f64::from(width) * bytes / largest).round() as i32;
            let bar = |from, to, style| Rectangle::new([(from, top), (to, top + 20)], style);
            let before = row.memory_before.unwrap_or(0.0).min(peak);
            area.draw(&bar(left, end(before), RGBColor(170, 170, 170).filled())).map_err(text)?;
            area.draw(&bar(end(before), end(peak), COLOURS[5].filled())).map_err(text)?;
            let value = format!("{:.1}", peak / f64::from(1 << 20));
            let style = font(13).pos(left_middle());
            area.draw_text(&value, &style, (end(peak) + 6, top + 10)).map_err(text)?;
        }
        if !grid.on_device {
            let y = 54 + 30 * grid.rows.len() as i32;
            let note = "grey: model and data before the first step; blue: what training adds";
            area.draw_text(note, &font(12).color(&GREY), (left, y)).map_err(text)?;
        }
        self.present().map_err(text)
    }

    fn losses(&self, grid: &Grid) -> Drawn {
        let area = prepared(self)?;
        let (panels, legend) = area.split_horizontally(PANEL as i32 * grid.tasks.len().max(1) as i32);
        for (column, panel) in panels.split_evenly((1, grid.tasks.len().max(1))).iter().enumerate() {
            let Some(task) = grid.tasks.get(column) else { break };
            let curves: Vec<(usize, Vec<(f64, f64)>)> =
                grid.rows.iter().enumerate().map(|(i, row)| (i, curve(row, column))).collect();
            let all = || curves.iter().flat_map(|(_, curve)| curve.iter());
            let x = range(all().map(|(x, _)| *x), false);
            let y = range(all().map(|(_, y)| *y), false);
            let caption = format!("{}: {}", grid.name, task.name);
            let mut chart = chart(panel, &caption, 0.0..x.end, y)?;
            let mut mesh = chart.configure_mesh();
            mesh.x_desc("step")
                .y_desc("training loss")
                .x_label_formatter(&|step| format!("{step:.0}"))
                .axis_desc_style(font(13))
                .label_style(font(12));
            mesh.light_line_style(TRANSPARENT).bold_line_style(GREY.mix(0.15)).draw().map_err(text)?;
            for (i, curve) in curves {
                chart.draw_series(LineSeries::new(curve, colour(i).stroke_width(2))).map_err(text)?;
            }
        }
        draw_legend(&legend, grid, "mean over seeds, smoothed")?;
        self.present().map_err(text)
    }

    fn lengths(&self, grid: &Grid, measure: Measure) -> Drawn {
        let area = prepared(self)?;
        let (panel, legend) = area.split_horizontally(PANEL as i32);
        lengths::draw(&panel, grid, measure)?;
        let failed = grid.rows.iter().any(|row| row.cells.iter().any(|cell| cell.failure.is_some()));
        let note = if failed { "no point: that run failed" } else { measure.note() };
        draw_legend(&legend, grid, note)?;
        self.present().map_err(text)
    }
}

fn prepared<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>) -> Result<&DrawingArea<DB, Shift>, String> {
    area.fill(&WHITE).map_err(text)?;
    Ok(area)
}

fn right_middle() -> plotters::style::text_anchor::Pos {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    Pos::new(HPos::Right, VPos::Center)
}

fn left_middle() -> plotters::style::text_anchor::Pos {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    Pos::new(HPos::Left, VPos::Center)
}

fn shortened(label: &str) -> String {
    match label.chars().count() {
        0..=28 => label.to_owned(),
        _ => label.chars().take(27).chain(['…']).collect(),
    }
}

/// A method's place in a scatter plot.
struct Point {
    row: usize,
    x: f64,
    y: f64,
    deviation: f64,
}

fn point(index: usize, row: &Row, task: &Task, column: usize, axis: Axis) -> Option<Point> {
    let cell = &row.cells[column];
    let deviation = task.shown(cell.deviation().unwrap_or(0.0));
    Some(Point { row: index, x: axis.of(row)?, y: task.shown(cell.mean()?), deviation })
}

/// The values' range with some room around it.
fn range(values: impl Iterator<Item = f64>, log: bool) -> Range<f64> {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) =
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return if log { 1.0..10.0 } else { 0.0..1.0 };
    }
    if log {
        return low / 2.0..high * 2.0;
    }
    let room = if high > low { 0.08 * (high - low) } else { high.abs().max(1.0) * 0.1 };
    low - room..high + room
}

type Chart<'a, DB, X, Y> = ChartContext<'a, DB, Cartesian2d<X, Y>>;

fn chart<'a, DB: DrawingBackend, X, Y>(
    panel: &'a DrawingArea<DB, Shift>,
    caption: &str,
    x: X,
    y: Y,
) -> Result<Chart<'a, DB, X::CoordDescType, Y::CoordDescType>, String>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
{
    let mut builder = ChartBuilder::on(panel);
    builder.caption(caption, font(15)).margin(12).x_label_area_size(46).y_label_area_size(56);
    builder.build_cartesian_2d(x, y).map_err(text)
}

fn scatter<DB: DrawingBackend, X>(
    panel: &DrawingArea<DB, Shift>,
    grid: &Grid,
    task: &Task,
    axis: Axis,
    points: &[Point],
    x: X,
    y: Range<f64>,
) -> Drawn
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = chart(panel, &format!("{}: {}", grid.name, task.name), x, y)?;
    let arrow = if task.higher_is_better { "higher is better" } else { "lower is better" };
    let format = |value: &f64| match axis {
        Axis::Parameters => size(value.round() as u64).replace(".00", ""),
        Axis::Memory => format!("{value:.0}"),
    };
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(axis.label(grid))
        .y_desc(format!("{}{} ({arrow})", task.metric, if task.on_validation { ", validation" } else { "" }))
        .x_label_formatter(&format)
        .x_labels(6);
    mesh.axis_desc_style(font(13)).label_style(font(12)).light_line_style(TRANSPARENT);
    mesh.bold_line_style(GREY.mix(0.15)).draw().map_err(text)?;
    for p in points {
        let bar = [(p.x, p.y - p.deviation), (p.x, p.y + p.deviation)];
        chart.draw_series(LineSeries::new(bar, colour(p.row).stroke_width(1))).map_err(text)?;
        let place = chart.backend_coord(&(p.x, p.y));
        // the chart's coordinates are the whole picture's, the panel's are its own
        let (dx, dy) = panel.get_base_pixel();
        marker(panel, (place.0 - dx, place.1 - dy), p.row)?;
    }
    Ok(())
}

/// A row's marker: its colour, and a shape that changes when the colours begin again and from row to row.
fn marker<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, at: (i32, i32), row: usize) -> Drawn {
    let style = colour(row).filled();
    let (x, y) = at;
    let shape = |points: &[(i32, i32)]| {
        Polygon::new(points.iter().map(|(a, b)| (x + a, y + b)).collect::<Vec<_>>(), style)
    };
    match (row + row / COLOURS.len()) % 4 {
        0 => area.draw(&Circle::new(at, 5, style)),
        1 => area.draw(&shape(&[(-5, -5), (5, -5), (5, 5), (-5, 5)])),
        2 => area.draw(&shape(&[(0, -6), (6, 5), (-6, 5)])),
        _ => area.draw(&shape(&[(0, -7), (7, 0), (0, 7), (-7, 0)])),
    }
    .map_err(text)
}

fn draw_legend<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, grid: &Grid, note: &str) -> Drawn {
    let step = (22.0f64).min((f64::from(HEIGHT) - 80.0) / grid.rows.len().max(1) as f64);
    for (i, row) in grid.rows.iter().enumerate() {
        let y = 40 + (step * i as f64) as i32;
        marker(area, (14, y), i)?;
        area.draw_text(&shortened(&row.label), &font(13).pos(left_middle()), (30, y)).map_err(text)?;
    }
    area.draw_text(note, &font(12).color(&GREY), (6, HEIGHT as i32 - 30)).map_err(text)
}

/// Training loss by step: the mean over seeds, averaged over a window of a twentieth of the steps.
fn curve(row: &Row, column: usize) -> Vec<(f64, f64)> {
    let runs = &row.cells[column].losses;
    let steps = runs.iter().map(Vec::len).min().unwrap_or(0);
    let mean: Vec<f64> = (0..steps)
        .map(|step| runs.iter().map(|run| run[step].loss).sum::<f64>() / runs.len() as f64)
        .collect();
    let half = (steps / 40).max(1);
    (0..steps)
        .map(|step| {
            let window = &mean[step.saturating_sub(half)..(step + half + 1).min(steps)];
            ((step + 1) as f64, window.iter().sum::<f64>() / window.len() as f64)
        })
        .filter(|(_, loss)| loss.is_finite())
        .collect()
}
