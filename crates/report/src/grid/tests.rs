use std::path::Path;

use peftlab_record::{PlannedCell, PlannedMethod, PlannedTask, SCHEMA};

use super::*;
use crate::made::{Made, grid, records};

fn shape(grid: &Grid) -> (Vec<&str>, Vec<&str>) {
    let tasks = grid.tasks.iter().map(|task| task.name.as_str());
    (grid.rows.iter().map(|row| row.label.as_str()).collect(), tasks.collect())
}

fn scores(grid: &Grid) -> Vec<Vec<&[f64]>> {
    grid.rows.iter().map(|row| row.cells.iter().map(|cell| cell.scores.as_slice()).collect()).collect()
}

/// A plan of methods `labels`, tasks with metrics, and cells with the identities `cells`.
fn manifest(
    labels: &[&str],
    tasks: &[(&str, &str)],
    cells: &[(usize, usize, u64, Option<&str>)],
) -> Manifest {
    let method = |label: &&str| PlannedMethod {
        label: (*label).to_owned(),
        method: "m".to_owned(),
        family: "f".to_owned(),
    };
    let task = |(name, metric): &(&str, &str)| {
        let known = Metric::parse(metric).unwrap();
        PlannedTask {
            name: (*name).to_owned(),
            kind: "classification".to_owned(),
            metric: (*metric).to_owned(),
            higher_is_better: known.higher_is_better(),
            in_points: known.in_points(),
        }
    };
    let cell = |(method, task, seed, identity): &(usize, usize, u64, Option<&str>)| PlannedCell {
        method: *method,
        task: *task,
        seed: *seed,
        identity: identity.map(str::to_owned),
    };
    Manifest {
        schema: SCHEMA,
        experiment: "planned".to_owned(),
        model: "the model".to_owned(),
        seeds: vec![0, 1],
        methods: labels.iter().map(method).collect(),
        tasks: tasks.iter().map(task).collect(),
        cells: cells.iter().map(cell).collect(),
    }
}

#[test]
fn a_plan_decides_what_is_in_a_table_and_under_which_names() {
    let made = |identity, seed, loss| Made { identity, seed, loss, row: 7, ..Made::default() };
    let records = records(&[
        made("a0", 0, 0.1),
        made("b0", 0, 0.2),
        made("stale", 0, 9.0),
        Made { label: Some("old name"), task: 1, ..made("a1", 1, 0.3) },
        made("", 0, 9.0),
    ]);
    let cells = [(1, 0, 1, Some("a1")), (1, 0, 0, Some("a0")), (0, 0, 0, Some("b0")), (0, 0, 1, None)];
    let plan = manifest(&["new", "lora"], &[("renamed", "loss"), ("later", "loss")], &cells);
    let grid = Grid::new(Some(&plan), records).unwrap();
    assert_eq!(shape(&grid), (vec!["new", "lora"], vec!["renamed", "later"]));
    let (one, two): (&[f64], &[f64]) = (&[0.2], &[0.3, 0.1]);
    assert_eq!(scores(&grid), [[one, &[]], [two, &[]]]);
    assert_eq!((grid.name.as_str(), grid.model.as_str(), grid.seeds), ("planned", "the model (1.00 k)", 2));
    assert_eq!(
        grid.notes,
        ["2 records in runs/ are not of this plan (other settings, model or data) and left out"]
    );
    // a cell that has yet to run, and one of which a seed has
    let cell = &grid.rows[0].cells[0];
    assert_eq!((cell.scores.len(), cell.planned), (1, 2));
    assert_eq!(grid.rows[1].cells[1].failure.as_ref().unwrap().0, NOT_RUN);
    assert_eq!(grid.records.len(), 3);
    assert!(cell.runs.iter().all(|run| grid.records[*run].1.identity == "b0"));
}

#[test]
fn of_records_of_one_cell_the_one_that_is_done_stands_and_the_newest_of_several() {
    let made = |loss, started| Made { identity: "a", loss, started, ..Made::default() };
    let failed = Made { out_of_memory: true, ..made(0.0, 9) };
    let plan = manifest(&["lora"], &[("first", "loss")], &[(0, 0, 0, Some("a"))]);
    let grid = Grid::new(Some(&plan), records(&[made(0.1, 1), made(0.2, 3), made(0.3, 2), failed])).unwrap();
    assert_eq!(scores(&grid), [[&[0.2]]]);
    assert!(
        grid.notes[0].starts_with("3 records in runs/ are of a cell that has another"),
        "{:?}",
        grid.notes
    );
}

#[test]
fn the_score_of_a_column_is_the_plans_metric() {
    let mut records = records(&[Made { identity: "a", tested: true, ..Made::default() }]);
    let test = &mut records[0].1.measured.as_mut().unwrap().test;
    let other = peftlab_record::Score { metric: "accuracy".to_owned(), value: 0.75, ..test[0].clone() };
    test.push(other);
    let cells = [(0, 0, 0, Some("a")), (0, 1, 0, Some("a"))];
    let plan = manifest(&["lora"], &[("first", "accuracy"), ("second", "f1")], &cells);
    let grid = Grid::new(Some(&plan), records).unwrap();
    assert_eq!(scores(&grid)[0], [&[0.75][..], &[]]);
    let failure = grid.rows[0].cells[1].failure.clone().unwrap();
    assert_eq!(failure, ("-".to_owned(), "there is no f1 on the test set".to_owned()));
}

#[test]
fn columns_are_tasks_and_not_places() {
    // a task was put in front, and only the first method ran again
    let before =
        |row| Made { row, tasks: &["rating"], metric: Some("pearson"), loss: 0.5, ..Made::default() };
    let tasks: &[&str] = &["sentiment", "rating"];
    let after = |task, metric, loss| Made { tasks, task, metric, loss, started: 1, ..Made::default() };
    let grid = grid(&[after(0, Some("accuracy"), 0.9), after(1, Some("pearson"), 0.6), before(1)]);
    assert_eq!(shape(&grid), (vec!["method 0", "method 1"], vec!["sentiment", "rating"]));
    let (accuracy, pearson): (&[f64], &[f64]) = (&[0.9], &[0.6]);
    assert_eq!(scores(&grid), [[accuracy, pearson], [&[], &[0.5]]]);
    assert_eq!(
        grid.tasks.iter().map(|task| task.metric.as_str()).collect::<Vec<_>>(),
        ["accuracy", "pearson"]
    );
    // no mean where a task has no score
    assert!(grid.rows[0].mean(&grid.tasks).is_some() && grid.rows[1].mean(&grid.tasks).is_none());
}

#[test]
fn accuracy_and_pearson_of_one_task_are_not_one_column() {
    let made = |row, metric, loss| Made { row, metric: Some(metric), loss, ..Made::default() };
    let grid = grid(&[made(0, "accuracy", 0.9), made(1, "accuracy", 0.8), made(2, "pearson", 0.1)]);
    assert_eq!(shape(&grid), (vec!["method 0", "method 1"], vec!["first"]));
    assert_eq!(grid.notes, ["left out: 1 record of method 2 on first: metric is pearson and not accuracy"]);
}

#[test]
fn other_lengths_of_training_are_left_out() {
    // `--only lora` with 4 steps, after all had 40
    let made = |row, seed, steps, started| Made { row, seed, steps, started, ..Made::default() };
    let all = [made(0, 0, 4, 5), made(0, 1, 4, 5), made(1, 0, 40, 1), made(1, 1, 40, 1), made(2, 0, 40, 1)];
    let grid = grid(&all);
    assert_eq!(shape(&grid).0, ["method 1", "method 2"]);
    assert_eq!(grid.notes, ["left out: 2 records of method 0 on first: training.steps is 4 and not 40"]);
    // of equally many the newest stand
    assert_eq!(shape(&crate::made::grid(&all[..4])).0, ["method 0"]);
}

#[test]
fn other_models_and_other_data_are_left_out() {
    let made = |row| Made { row, ..Made::default() };
    let grid = grid(&[
        made(0),
        made(1),
        made(2),
        Made { data: "other", ..made(3) },
        Made { weights: "other", ..made(4) },
    ]);
    assert_eq!(shape(&grid).0, ["method 0", "method 1", "method 2"]);
    assert_eq!(
        grid.notes,
        [
            "left out: 1 record of method 3 on first: other data",
            "left out: 1 record of method 4 on first: other weights"
        ]
    );
}

#[test]
fn seeds_of_a_cell_differ_in_nothing_else() {
    let made = |seed, rate, started| Made { seed, rate, started, ..Made::default() };
    let grid = grid(&[made(0, 1e-3, 0), made(1, 1e-2, 0), made(2, 1e-2, 0), made(2, 1e-2, 3)]);
    let cell = &grid.rows[0].cells[0];
    assert_eq!((cell.scores.len(), grid.seeds, grid.records.len()), (2, 2, 2));
    assert_eq!(
        grid.notes,
        [
            "left out: 1 record of method 0 on first: the same seed has another record, done or newer",
            "left out: 1 record of method 0 on first: training.learning_rate is 0.001 and not 0.01"
        ]
    );
    // a setting that an older program did not know
    let mut newer = records(&[made(0, 1e-3, 0), made(1, 1e-3, 0)]);
    newer[1].1.settings["training"]["patience"] = serde_json::Value::Null;
    assert!(Grid::new(None, newer).unwrap().notes.is_empty());
    // what a record says that decided its numbers is asked before its settings
    let with_inputs = |rate: f64, seed: u64| {
        let mut record = made(seed, rate, 0).record();
        record.inputs = serde_json::json!({ "seed": seed, "numerics": 1 });
        (Path::new("nowhere.json").to_owned(), record)
    };
    let alike = Grid::new(None, vec![with_inputs(1e-3, 0), with_inputs(1e-2, 1)]).unwrap();
    assert!(alike.notes.is_empty() && alike.rows[0].cells[0].scores.len() == 2);
}

#[test]
fn a_missing_seed_is_counted() {
    let made = |row, seed| Made { row, seed, ..Made::default() };
    let grid =
        grid(&[made(0, 0), made(0, 1), made(1, 0), Made { out_of_memory: true, ..made(2, 0) }, made(2, 1)]);
    let counts: Vec<_> =
        grid.rows.iter().map(|row| (row.cells[0].scores.len(), row.cells[0].planned)).collect();
    assert_eq!(counts, [(2, 2), (1, 2), (1, 2)]);
}

#[test]
fn a_title_claims_no_conditions_that_a_row_was_not_measured_under() {
    let made = |row, threads| Made { row, threads, ..Made::default() };
    let grid = grid(&[made(0, 2), made(1, 2), made(2, 1)]);
    assert_eq!(grid.place, "cpu, 2 threads, f32");
    let others: Vec<_> = grid.rows.iter().map(|row| row.other_conditions.as_deref()).collect();
    assert_eq!(others, [None, None, Some("1 thread")]);
}

#[test]
fn nothing_is_best_where_weights_are_random_or_a_row_is_alone() {
    let made = |row, loss| Made { row, loss, ..Made::default() };
    let marks = |grid: &Grid| -> Vec<(bool, bool)> {
        grid.rows.iter().map(|row| (row.cells[0].best, row.cells[0].second)).collect()
    };
    assert_eq!(
        marks(&grid(&[made(0, 0.3), made(1, 0.1), made(2, 0.2)])),
        [(false, false), (true, false), (false, true)]
    );
    assert_eq!(marks(&grid(&[made(0, 0.3), made(1, 0.1)])), [(false, false), (true, false)]);
    assert_eq!(marks(&grid(&[made(0, 0.3)])), [(false, false)]);
    assert_eq!(marks(&grid(&[made(0, 0.3), made(1, 0.3)])), [(false, false); 2]);
    let mut random = records(&[made(0, 0.3), made(1, 0.1)]);
    random[1].1.settings["model"]["weights"] = "random".into();
    random[0].1.settings["model"]["weights"] = "random".into();
    let grid = Grid::new(None, random).unwrap();
    assert!(grid.random_weights && marks(&grid) == [(false, false), (false, false)]);
}

#[test]
fn nothing_is_best_where_all_are_tied() {
    let dir = tempfile::tempdir().unwrap();
    let marks = |wrong: usize| {
        let mut records = Vec::new();
        for (row, wrong) in [wrong, 3].into_iter().enumerate() {
            let path = dir.path().join(format!("{row}.json"));
            let loss = 1.0 - wrong as f64 / 200.0;
            let made = Made { row, metric: Some("accuracy"), loss, ..Made::default() };
            let mut record = made.record();
            record.measured.as_mut().unwrap().validation[0].items = 200;
            let lines: Vec<String> =
                (0..200).map(|item| format!("{item},1,{},0.5", u8::from(item >= wrong))).collect();
            let text = format!("item,expected,predicted,loss\n{}\n", lines.join("\n"));
            std::fs::write(peftlab_record::predictions_path(&path), text).unwrap();
            records.push((path, record));
        }
        let grid = Grid::new(None, records).unwrap();
        let cell = |row: usize| (grid.rows[row].cells[0].best, grid.rows[row].cells[0].tied);
        [cell(0), cell(1)]
    };
    assert_eq!(marks(5), [(false, Some(true)), (false, None)]);
    assert_eq!(marks(90), [(false, Some(false)), (true, None)]);
}

#[test]
fn extra_columns_are_there_where_something_differs() {
    let made = |row, rate| Made { row, rate, ..Made::default() };
    assert_eq!(grid(&[made(0, 1e-3), made(1, 1e-3)]).extras, Extras::default());
    assert!(grid(&[made(0, 1e-3), made(1, 2e-4)]).extras.rates);
    let base = |row, bytes| Made { base_bytes: Some(bytes), ..made(row, 1e-3) };
    assert!(!grid(&[base(0, 5), base(1, 5)]).extras.bases);
    assert!(grid(&[base(0, 5), base(1, 3)]).extras.bases);
}

#[test]
fn losses_and_merges_are_means_over_seeds() {
    let made = |seed, loss, merged: &[(&str, f64)]| Made {
        seed,
        loss,
        base_bytes: Some(1 << 20),
        merged: merged.iter().map(|(into, loss)| ((*into).to_owned(), *loss)).collect(),
        ..Made::default()
    };
    let grid = grid(&[
        made(0, 0.5, &[("weights", 0.6), ("zero points", 0.5)]),
        made(1, 0.7, &[("weights", 0.7), ("zero points", 0.7)]),
    ]);
    assert!(grid.extras.bases && !grid.extras.by_task);
    assert_eq!(grid.extras.merges, ["weights", "zero points"]);
    let costs = &grid.rows[0].cells[0].costs;
    assert!((costs.loss.unwrap() - 0.6).abs() < 1e-12);
    assert!((costs.merged_into("weights").unwrap() - 0.65).abs() < 1e-12);
    assert_eq!(grid.rows[0].base_bytes, Some(1048576.0));
}

#[test]
fn a_method_that_grows_has_the_parameters_that_it_ends_with() {
    assert_eq!(grid(&[Made { trained_end: Some(25), ..Made::default() }]).rows[0].trained, 25);
}
