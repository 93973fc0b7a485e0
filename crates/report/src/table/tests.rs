use super::*;
use crate::grid::Grid;
use crate::made::{Made, grid};
use crate::options::{Columns, Options};

fn columns(grid: &Grid) -> Columns {
    Columns::new(&Options::default(), grid).unwrap()
}

fn shown(grid: &Grid) -> String {
    terminal(grid, &columns(grid), 120)
}

/// The table in every form for readers.
fn forms(grid: &Grid) -> [String; 3] {
    let columns = columns(grid);
    [terminal(grid, &columns, 160), markdown(grid, &columns), latex(grid, &columns)]
}

#[test]
fn extra_columns_are_in_every_form() {
    let made = |row| Made {
        row,
        rate: if row == 0 { 1e-3 } else { 1e-2 },
        tried: vec![1e-3, 3e-3, 1e-2],
        base_bytes: Some(3 << 20),
        merged: vec![("zero points".to_owned(), 1.25)],
        ..Made::default()
    };
    let grid = grid(&[made(0), made(1)]);
    let extra = ["rate", "loss", "merged: zero points", "base MiB", "s/step"];
    for text in forms(&grid) {
        let header = text.lines().find(|line| line.contains("trained")).unwrap();
        assert!(extra.iter().all(|name| header.contains(name)), "{header}");
        assert!(text.contains("1.2500") && text.contains("one trial each with seed 7"), "{text}");
    }
    let latex = latex(&grid, &columns(&grid));
    assert!(latex.contains(" & 1e-2\\textasciicircum{} & "), "{latex}");
    let csv = csv(&grid);
    let header = "base_bytes,validation_loss_merged_zero points,seeds_planned,speed_conditions";
    assert!(csv.lines().next().unwrap().ends_with(header), "{csv}");
    assert!(csv.lines().nth(2).unwrap().ends_with(",0.01,true,1,1,1048576,3145728,1.25,1,"), "{csv}");
}

#[test]
fn what_is_no_number_is_never_the_best_and_never_shown_as_one() {
    let made = |row, score: f64, loss: f64| Made { row, score: Some(score), loss, ..Made::default() };
    // the second has an undefined score, the third a score although its validation loss is NaN
    let records = [made(0, 0.5, 0.5), made(1, f64::NAN, 0.4), made(2, 0.1, f64::NAN), made(3, 0.7, 0.5)];
    let table = grid(&records);
    let best: Vec<bool> = table.rows.iter().map(|row| row.cells[0].best).collect();
    assert_eq!(best, [true, false, false, false]);
    for text in forms(&table).into_iter().chain([csv(&table)]) {
        assert!(!text.contains("NaN") && text.contains("undefined") && text.contains("diverged"), "{text}");
    }
    let csv = csv(&table);
    let fields: Vec<&str> = csv.lines().nth(2).unwrap().split(',').collect();
    assert_eq!(fields[7..11], ["0", "", "", ""], "{csv}");
    let none = grid(&[made(0, f64::NAN, 0.5)]);
    assert!(!none.rows[0].cells[0].best && !markdown(&none, &columns(&none)).contains("**"));
}

#[test]
fn a_validation_score_is_not_called_a_tests() {
    let made = |row, task, tested| Made { row, task, tested, ..Made::default() };
    let tested = markdown_of(&[made(0, 0, true)]);
    assert!(tested.contains("first (loss)") && tested.contains("scores are of the test set"), "{tested}");
    let validated = markdown_of(&[made(0, 0, false)]);
    assert!(validated.contains("first (loss, validation)"), "{validated}");
    assert!(validated.contains("no score is of a test set"), "{validated}");
    // one run of a column has no test set: the column is of validation
    let mixed = [made(0, 0, true), made(1, 0, false), made(0, 1, true), made(1, 1, true)];
    let text = markdown_of(&mixed);
    assert!(text.contains("first (loss, validation)") && text.contains("second (loss)"), "{text}");
    assert!(text.contains("of the validation set where a column says so"), "{text}");
    let mixed = grid(&mixed);
    assert_eq!(mixed.rows[0].cells[0].scores.len(), 1);
    let csv = csv(&mixed);
    assert!(csv.contains("first,loss,validation,") && csv.contains("second,loss,test,"), "{csv}");
}

fn markdown_of(records: &[Made]) -> String {
    let grid = grid(records);
    markdown(&grid, &columns(&grid))
}

#[test]
fn memory_by_difference_is_called_that() {
    let text = shown(&grid(&[Made { by_difference: true, ..Made::default() }]));
    assert!(text.contains("the driver does not list the process"), "{text}");
}

#[test]
fn no_columns_and_no_notes_without_a_need() {
    let made = |row, loss| Made { row, loss, ..Made::default() };
    for text in forms(&grid(&[made(0, 0.5), made(1, 0.6)])) {
        for none in [
            "rate",
            "base MiB",
            "by task",
            "deviation",
            "†",
            "dagger",
            "second best",
            "mean:",
            "distinguishable",
            "2/",
        ] {
            assert!(!text.contains(none), "{none}: {text}");
        }
    }
}

#[test]
fn a_seed_that_is_missing_and_a_row_that_did_not_run_are_told_in_every_form() {
    let made = |row, seed, task| Made { row, seed, task, ..Made::default() };
    let failed = Made { out_of_memory: true, ..made(1, 1, 0) };
    let grid = grid(&[made(0, 0, 0), made(0, 1, 0), made(1, 0, 0), failed, made(0, 0, 1), made(0, 1, 1)]);
    for text in forms(&grid) {
        assert!(text.contains("(1/2") && text.contains("of 1 of 2 seeds"), "{text}");
        assert!(text.contains("not run: method 1 on second"), "{text}");
        assert!(text.contains("OOM: method 1 on first: no memory left"), "{text}");
    }
}

#[test]
fn what_was_measured_under_other_conditions_is_marked_where_it_stands() {
    let made = |row, threads| Made { row, threads, ..Made::default() };
    let grid = grid(&[made(0, 2), made(1, 2), made(2, 1)]);
    let [terminal, markdown, latex] = forms(&grid);
    for text in [&terminal, &markdown] {
        assert!(
            text.contains("2 threads, f32 (but for †)") && text.contains("1 thread (method 2)"),
            "{text}"
        );
    }
    assert_eq!(markdown.matches("100† |").count(), 1, "{markdown}");
    assert!(latex.contains("100$^{\\dagger}$ \\\\"), "{latex}");
    assert!(csv(&grid).lines().last().unwrap().ends_with(",1,1 thread"));
}

#[test]
fn a_terminal_shows_no_line_that_is_wider_than_it() {
    const TASKS: [&str; 4] = ["sentiment", "paraphrase", "similarity", "entailment"];
    let mut made = Vec::new();
    for (row, task, seed) in (0..26 * 4 * 3).map(|i| (i / 12, i / 3 % 4, i % 3)) {
        made.push(Made {
            row,
            task,
            seed: seed as u64,
            tasks: &TASKS,
            label: Some(
                ["lora r=8 q,v", "a method with a label that is far too long for any table"][row % 2],
            )
            .filter(|_| row < 2),
            metric: Some("accuracy"),
            score: Some(0.5 + 0.01 * (row + seed) as f64),
            tried: vec![1e-3, 3e-3],
            merged: vec![("weights".to_owned(), 0.5)],
            ..Made::default()
        });
    }
    let grid = grid(&made);
    let columns = columns(&grid);
    for width in [80, 120] {
        let text = terminal(&grid, &columns, width);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= width, "{widest} of {width}:\n{text}");
        assert!(text.contains("not shown for want of width"), "{text}");
    }
    // with room, nothing is left out
    assert!(terminal(&grid, &columns, 300).contains("merged: weights"));
}

#[test]
fn families_are_set_apart_where_they_are_asked_for() {
    let made = |row, family| Made { row, family, ..Made::default() };
    let mut grid = grid(&[made(0, "additive"), made(1, "partial"), made(2, "additive")]);
    let options = Options { group: Some("family".to_owned()), ..Options::default() };
    let columns = Columns::new(&options, &grid).unwrap();
    options.arrange(&mut grid).unwrap();
    let text = latex(&grid, &columns);
    assert_eq!(text.matches("\\midrule").count(), 2, "{text}");
    assert!(text.contains("{l}{\\emph{additive}}"), "{text}");
    assert!(markdown(&grid, &columns).contains("| *partial* |"));
    assert!(terminal(&grid, &columns, 120).contains("\n[additive]\n"));
}

/// What a paper would print: methods of several families, two tasks, failures, long labels, characters of other alphabets.
fn realistic() -> Grid {
    const TASKS: [&str; 2] = ["sentiment", "text_ppl"];
    const LABELS: [&str; 6] = [
        "full",
        "lora r=8 q,v",
        "adalora r=12→8 q,v",
        "50 % & more_#1",
        "tied-lora r=8 tie=AB train=ABuv",
        "(IA)³ α=0.5",
    ];
    let mut made = Vec::new();
    for (row, task, seed) in (0..26 * 2 * 3).map(|i| (i / 6, i / 3 % 2, i % 3)) {
        let metric = if task == 0 { "accuracy" } else { "perplexity" };
        let wobble = f64::from((row as u32 * 7 + task as u32 * 5 + seed as u32 * 3) % 11);
        made.push(Made {
            row,
            task,
            seed: seed as u64,
            tasks: &TASKS,
            label: LABELS.get(row).copied(),
            family: ["baseline", "reparameterized", "additive"][row.min(1) + usize::from(row > 15)],
            metric: Some(metric),
            score: Some(if task == 0 {
                0.7 + 0.01 * wobble
            } else {
                (2.0 + row as f64 / 3.0 + 0.1 * wobble).exp()
            }),
            rate: [5e-4, 2e-3, 8e-3][(row + task) % 3],
            tried: vec![5e-4, 2e-3, 8e-3],
            tested: true,
            out_of_memory: row == 9 || (row == 12 && seed == 1),
            peak_bytes: (40 + row as u64) << 20,
            base_bytes: Some(16_700_000 + 1_000_000 * (row as u64 % 2)),
            threads: if row == 7 { 2 } else { 1 },
            ..Made::default()
        });
    }
    grid(&made)
}

#[test]
fn latex_compiles_where_there_is_a_tex() {
    let lengths: Vec<Made> = (0..4)
        .map(|i| Made {
            row: i / 2,
            task: i % 2,
            tasks: &["n=512", "n=1024"],
            kind: "causal-lm",
            metric: Some("perplexity"),
            loss: 260.467 + i as f64,
            ..Made::default()
        })
        .collect();
    let (wide, narrow) = (realistic(), grid(&lengths));
    let by_family =
        Columns::new(&Options { group: Some("family".to_owned()), ..Options::default() }, &wide).unwrap();
    let tables = [latex(&wide, &by_family), latex(&narrow, &columns(&narrow))];
    assert!(tables[0].contains("\\begin{sidewaystable}") && tables[1].contains("\\begin{table}"));
    let engine = ["pdflatex", "lualatex", "tectonic"].into_iter().find(|engine| {
        std::process::Command::new(engine)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
    });
    let Some(engine) = engine else {
        println!("skipped: there is no pdflatex, lualatex or tectonic here");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let document = format!(
        "\\documentclass{{article}}\n\\usepackage[T1]{{fontenc}}\n\
         \\usepackage{{booktabs,threeparttable,adjustbox,rotating}}\n\\begin{{document}}\n{}\n\\end{{document}}\n",
        tables.join("\n")
    );
    std::fs::write(dir.path().join("table.tex"), document).unwrap();
    let mut command = std::process::Command::new(engine);
    if engine != "tectonic" {
        command.args(["-interaction=nonstopmode", "-halt-on-error"]);
    }
    let output = command.arg("table.tex").current_dir(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if said.contains(".sty' not found") {
        println!("skipped: {engine} lacks a package of the table");
        return;
    }
    assert!(output.status.success() && dir.path().join("table.pdf").is_file(), "{said}");
    assert!(!said.contains("Overfull") && !said.contains("Missing character"), "{said}");
}
