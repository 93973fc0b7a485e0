use std::collections::BTreeSet;

use peftlab_record::{Look, Step};

use super::canvas::{Anchor, Canvas, Shape, WIDTH};
use super::{PICTURES, all, font};
use crate::grid::Grid;
use crate::made::{Made, grid};

const TASKS: [&str; 8] = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "任务"];
const FAMILIES: [&str; 4] = ["baseline", "additive", "a family with a name of some length", "unified"];

/// `rows` methods on `tasks` tasks with `seeds` seeds, among them long and Chinese labels, no parameters, no score, and
/// curves that end in NaN.
fn many(rows: usize, tasks: usize, seeds: u64) -> Grid {
    let mut made = Vec::new();
    for row in 0..rows {
        for task in 0..tasks {
            for seed in 0..seeds {
                made.push(Made {
                    row,
                    task,
                    seed,
                    tasks: &TASKS,
                    kind: "classification",
                    score: Some(0.6 + 0.01 * ((row * 7 + task) % 23) as f64 + 0.005 * seed as f64),
                    step_seconds: 0.01 * (1 + row % 7) as f64,
                    peak_bytes: (40 + (row * 13 % 50) as u64) << 20,
                    out_of_memory: row == 4 && task == 0,
                    ..Made::default()
                });
            }
        }
    }
    let mut grid = grid(&made);
    for (i, row) in grid.rows.iter_mut().enumerate() {
        row.family = FAMILIES[i % FAMILIES.len()].to_owned();
        row.trained = if i == 0 { 0 } else { 8_450 * (1 + (i as u64 * 37) % 100) };
        match i {
            1 => row.label = "中文方法 λ".to_owned(),
            2 => row.label = "lora ".repeat(16),
            3 => row.label = "w".repeat(80),
            _ => {}
        }
        for cell in &mut row.cells {
            let step = |step: u64| Step {
                step,
                loss: if i == 5 && step > 60 {
                    f64::NAN
                } else {
                    3.0 / step as f64 + 0.1 * (step % 7) as f64
                },
                learning_rate: 0.0,
                seconds: 0.0,
                tokens: 0,
                used_bytes: None,
            };
            let count = cell.scores.len();
            cell.losses = vec![(1..=80).map(step).collect(); count];
            let looks = |at: u64| Look { step: 20 * at, loss: 2.0 / (1 + at) as f64 };
            cell.looks = vec![(0..5).map(looks).collect(); count];
        }
    }
    grid
}

fn pictures(grid: &Grid) -> Vec<(&'static str, Canvas)> {
    PICTURES.iter().filter_map(|(name, draw)| Some((*name, draw(grid)?))).collect()
}

/// Every text of a drawing, with its extent.
fn texts(canvas: &Canvas) -> Vec<(&str, [f64; 4])> {
    let mut out = Vec::new();
    for shape in &canvas.shapes {
        let Shape::Text { text, at: (x, y), size, anchor, upwards, .. } = shape else { continue };
        let width = font::width(text, *size);
        let start = match anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => -width / 2.0,
            Anchor::End => -width,
        };
        out.push(match upwards {
            false => (text.as_str(), [x + start, y - size, x + start + width, *y]),
            true => (text.as_str(), [x - size, y - start - width, *x, y - start]),
        });
    }
    out
}

#[test]
fn whatever_the_number_of_rows_and_tasks_all_is_within_the_picture() {
    for (rows, tasks, seeds) in
        [(2, 1, 1), (8, 2, 3), (11, 1, 2), (26, 2, 3), (26, 3, 1), (60, 1, 1), (60, 8, 2)]
    {
        let grid = many(rows, tasks, seeds);
        let pictures = pictures(&grid);
        assert_eq!(pictures.len(), 6, "{rows} {tasks} {seeds}");
        for (name, canvas) in pictures {
            for (text, [left, top, right, bottom]) in texts(&canvas) {
                let within = left >= -2.0 && right <= WIDTH + 4.0 && top >= -2.0 && bottom <= canvas.height;
                assert!(
                    within,
                    "{name} {rows} {tasks}: {text} {left} {top} {right} {bottom} of {}",
                    canvas.height
                );
            }
            for shape in &canvas.shapes {
                let (Shape::Line { points, .. } | Shape::Area { points, .. }) = shape else { continue };
                let within = |(x, y): &(f64, f64)| {
                    (-6.0..=WIDTH + 6.0).contains(x) && (0.0..=canvas.height).contains(y)
                };
                assert!(points.iter().all(within), "{name} {rows} {tasks}: {points:?}");
            }
        }
    }
}

#[test]
fn names_stand_beside_points_where_panels_are_large_and_else_numbers() {
    let names = |rows, tasks| -> BTreeSet<String> {
        let grid = many(rows, tasks, 2);
        let (_, canvas) = pictures(&grid).into_iter().find(|(name, _)| *name == "score-parameters").unwrap();
        texts(&canvas).into_iter().map(|(text, _)| text.to_owned()).collect()
    };
    let few = names(26, 2);
    assert!(few.contains("method 25") && few.contains("中文方法 λ") && few.contains("0"), "{few:?}");
    assert!(few.iter().any(|text| text.starts_with("lora lora") && text.contains('…')), "{few:?}");
    let many = names(26, 3);
    assert!(many.contains("26") && many.contains("26 method 25"), "{many:?}");
}

#[test]
fn axes_have_units_and_a_single_seed_is_said() {
    let grid = many(8, 2, 1);
    let all: Vec<String> = pictures(&grid)
        .iter()
        .flat_map(|(_, canvas)| texts(canvas))
        .map(|(text, _)| text.to_owned())
        .collect();
    for said in [
        "peak memory allocated on the host, MiB",
        "median time of a step, ms",
        "trained parameters (log scale)",
    ] {
        assert!(all.iter().any(|text| text.starts_with(said)), "{said} {all:?}");
    }
    assert!(all.iter().any(|text| text.starts_with("one seed")), "{all:?}");
}

#[test]
fn what_says_nothing_is_not_drawn_and_no_longer_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let files = all(&many(3, 1, 2), dir).unwrap();
    assert_eq!(files.len(), 3 * 6);
    std::fs::write(dir.join("loss-of-mine.svg"), "mine").unwrap();
    // one method without a table of steps
    assert_eq!(all(&grid(&[Made::default()]), dir).unwrap(), Vec::<std::path::PathBuf>::new());
    let left: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["loss-of-mine.svg"]);
}

#[test]
fn reports_at_once_leave_what_one_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let once = tempfile::tempdir().unwrap();
    let files = all(&many(3, 1, 2), once.path()).unwrap();
    std::thread::scope(|scope| {
        let reports: Vec<_> =
            (0..3).map(|_| scope.spawn(|| all(&many(3, 1, 2), dir.path()).unwrap())).collect();
        for report in reports {
            assert_eq!(report.join().unwrap().len(), files.len());
        }
    });
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), files.len());
    for file in files {
        let there = dir.path().join(file.file_name().unwrap());
        assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&there).unwrap(), "{}", there.display());
    }
}

/// Methods of several powers of the length; the last runs out of memory at the longest.
fn lengths() -> Grid {
    const TASKS: [&str; 5] = ["n=512", "n=1024", "n=2048", "n=4096", "n=8192"];
    let methods =
        [("full attention", 1.9), ("shifted sparse", 1.2), ("lora r=8 q,v", 1.0), ("qlora r=8", 1.6)];
    let mut made = Vec::new();
    for (row, (label, power)) in methods.into_iter().enumerate() {
        for task in 0..TASKS.len() {
            let size = 2f64.powi(task as i32);
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
fn time_and_memory_are_drawn_over_lengths_where_tasks_are_lengths() {
    let grid = lengths();
    let drawn = pictures(&grid);
    let (_, canvas) = drawn.iter().find(|(name, _)| *name == "time-by-length").unwrap();
    assert!(drawn.iter().any(|(name, _)| *name == "memory-by-length"));
    let texts: Vec<&str> = texts(canvas).into_iter().map(|(text, _)| text).collect();
    for said in ["length of a sequence, tokens (log scale)", "median time of a step, s (log scale)", "8,192"]
    {
        assert!(texts.contains(&said), "{said} {texts:?}");
    }
    assert!(texts.iter().any(|text| text.ends_with("that run failed")), "{texts:?}");
    assert!(!pictures(&many(3, 2, 1)).iter().any(|(name, _)| *name == "time-by-length"));
}
