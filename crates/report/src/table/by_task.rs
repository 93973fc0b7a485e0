//! The second table, of time and memory by task, where tasks are one at several sizes.

use crate::format::{mebibytes, significant};
use crate::grid::{Cell, Grid};

/// The table's title.
pub(super) fn title(grid: &Grid) -> String {
    let peak = if grid.on_device { "of the GPU" } else { "allocated on the host" };
    format!("time and memory by task: median of a step in seconds, peak MiB {peak} while training")
}

/// The table, its header first; none where tasks are not one at several sizes.
pub(super) fn lines(grid: &Grid) -> Option<Vec<Vec<String>>> {
    if !grid.extras.by_task {
        return None;
    }
    let names = || grid.tasks.iter().map(|task| &task.name);
    let mut header = vec!["method".to_owned()];
    header.extend(names().map(|name| format!("{name} s")));
    header.extend(names().map(|name| format!("{name} MiB")));
    let mut lines = vec![header];
    for row in &grid.rows {
        let mut line = vec![row.label.clone()];
        let missing = |cell: &Cell| cell.failure.as_ref().map_or("-".to_owned(), |(short, _)| short.clone());
        let cells = || row.cells.iter();
        line.extend(cells().map(|cell| cell.costs.step_seconds.map_or_else(|| missing(cell), significant)));
        line.extend(cells().map(|cell| match cell.costs.peak_memory {
            None => missing(cell),
            bytes => mebibytes(bytes),
        }));
        lines.push(line);
    }
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made::{Made, grid};

    #[test]
    fn tasks_of_several_lengths_have_a_table_of_their_own() {
        let made = |row, task, step_seconds, out_of_memory| Made {
            row,
            task,
            kind: "causal-lm",
            tasks: &["n=512", "n=1024"],
            step_seconds,
            out_of_memory,
            ..Made::default()
        };
        let well = [made(0, 0, 0.5, false), made(0, 1, 1.5, false), made(1, 0, 0.25, false)];
        let grid = grid(&[well.as_slice(), &[made(1, 1, 0.0, true)]].concat());
        let lines = lines(&grid).unwrap();
        assert_eq!(lines[0], ["method", "n=512 s", "n=1024 s", "n=512 MiB", "n=1024 MiB"]);
        assert_eq!(lines[1], ["method 0", "0.500", "1.50", "1.0", "1.0"]);
        assert_eq!(lines[2], ["method 1", "0.250", "OOM", "1.0", "OOM"]);
    }
}
