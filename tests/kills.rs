//! Two runs on one folder, and a hundred kills of them and of their cells at random moments.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]
#![cfg(target_os = "linux")]

mod common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{bench, experiment, root, text};
use peftlab_record::Record;
use rand::{RngExt, SeedableRng};

const METHODS: &str = "[[method]]\nname = \"lora\"\nrank = 2\n\n[[method]]\nname = \"bitfit\"\n";
const KILLS: usize = 100;

/// A process of a cell that has its claim: the name that it gave itself, and its number.
fn at_work() -> Vec<(String, u32)> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let named = processes.filter_map(|entry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        // one that has ended and is not waited for yet works no more
        let state = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let ended = state.rsplit(") ").next()?.starts_with('Z');
        Some((name.trim().strip_prefix("cell ")?.to_owned(), process)).filter(|_| !ended)
    });
    named.collect()
}

fn signal(process: u32, name: &str) {
    // one that has ended meanwhile cannot be killed
    let _ =
        Command::new("kill").args([&format!("-{name}"), &process.to_string()]).stderr(Stdio::null()).status();
}

/// What a rerun must give again, by identity.
fn results(out: &Path) -> BTreeMap<String, String> {
    let records = Record::read_folder(&out.join("runs")).unwrap();
    let digest = |record: Record| (record.identity, record.measured.unwrap().weights_digest);
    records.into_iter().map(|(_, record)| digest(record)).collect()
}

/// A run of the experiment `file` in `dir` that is still going on.
fn begun(program: &Path, dir: &Path, file: &str) -> Child {
    Command::new(program)
        .args(["run", file, "--out", "out"])
        .current_dir(dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

struct Runs {
    dir: PathBuf,
    children: [Option<Child>; 2],
}

impl Runs {
    /// Starts those that have ended.
    fn keep_going(&mut self) {
        for child in &mut self.children {
            if child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                let started = Command::new(env!("CARGO_BIN_EXE_bench"))
                    .args(["run", "killed.toml", "--out", "out"])
                    .current_dir(&self.dir)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn();
                *child = Some(started.unwrap());
            }
        }
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_hundred_kills_leave_the_table_that_an_undisturbed_run_has() {
    let dir = tempfile::tempdir().unwrap();
    experiment(dir.path(), "killed", "[900, 901, 902, 903, 904, 905]", 3, METHODS);
    let start = Instant::now();
    let undisturbed = bench(dir.path(), &["run", "killed.toml", "--out", "calm"]);
    // kills come at any moment of a cell's life, on a slow machine, too
    let cell = start.elapsed() / 12;
    assert_eq!(undisturbed.status.code(), Some(0), "{}", text(&undisturbed));
    let expected = results(&dir.path().join("calm"));
    assert_eq!(expected.len(), 12);
    let ours: HashSet<String> = expected.keys().map(|identity| identity[..8].to_owned()).collect();

    // who works on a cell is looked at all the time
    let (done, twice, seen) = (AtomicBool::new(false), Mutex::new(Vec::new()), Mutex::new(HashSet::new()));
    let watch = || {
        while !done.load(Ordering::Relaxed) {
            let mut workers: HashMap<String, Vec<u32>> = HashMap::new();
            for (cell, process) in at_work().into_iter().filter(|(cell, _)| ours.contains(cell)) {
                workers.entry(cell).or_default().push(process);
                seen.lock().unwrap().insert(process);
            }
            twice.lock().unwrap().extend(workers.into_iter().filter(|(_, processes)| processes.len() > 1));
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(12);
    std::thread::scope(|scope| {
        scope.spawn(watch);
        let mut runs = Runs { dir: dir.path().to_owned(), children: [None, None] };
        for _ in 0..KILLS {
            runs.keep_going();
            std::thread::sleep(cell.mul_f64(rng.random_range(0.0..2.0)));
            let cells: Vec<u32> = at_work()
                .into_iter()
                .filter(|(cell, _)| ours.contains(cell))
                .map(|(_, process)| process)
                .collect();
            let parents = runs.children.iter().flatten().map(Child::id);
            let all: Vec<u32> = parents.chain(cells).collect();
            let name = ["KILL", "TERM", "INT"][rng.random_range(0..3)];
            signal(all[rng.random_range(0..all.len())], name);
            // there has to be something left to do
            let records = Record::read_folder(&dir.path().join("out/runs")).unwrap();
            if records.len() == expected.len() {
                std::fs::remove_file(&records[rng.random_range(0..records.len())].0).unwrap();
            }
        }
        drop(runs);
        // nobody is left that works for a run that is gone
        let start = Instant::now();
        while at_work().iter().any(|(cell, _)| ours.contains(cell)) {
            assert!(start.elapsed() < Duration::from_secs(20), "an orphan is left");
            std::thread::sleep(Duration::from_millis(20));
        }
        done.store(true, Ordering::Relaxed);
    });
    let seen = seen.into_inner().unwrap().len();
    assert!(seen > KILLS / 10, "only {seen} processes of cells were seen: nothing was watched");
    let twice = twice.into_inner().unwrap();
    assert!(twice.is_empty(), "a cell ran twice at a time: {twice:?}");
    let last = bench(dir.path(), &["run", "killed.toml", "--out", "out"]);
    assert_eq!(last.status.code(), Some(0), "{}", text(&last));
    assert_eq!(results(&dir.path().join("out")), expected);
    let claims = std::fs::read_dir(dir.path().join("out/claims")).unwrap().count();
    assert!(claims <= expected.len(), "{claims} claims are left");
    let files =
        std::fs::read_dir(dir.path().join("out/runs")).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = files.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(left.is_empty(), "killed writers left {left:?}");
}

#[test]
fn a_stopped_run_says_what_is_kept_and_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    experiment(dir.path(), "stopped", "[910, 911, 912]", 40, METHODS);
    let child = begun(Path::new(env!("CARGO_BIN_EXE_bench")), dir.path(), "stopped.toml");
    let start = Instant::now();
    let records = || {
        let names = std::fs::read_dir(dir.path().join("out/runs")).into_iter().flatten();
        names.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "json")).count()
    };
    while records() < 1 {
        assert!(start.elapsed() < Duration::from_secs(120), "no record was written");
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(child.id(), "TERM");
    let output = child.wait_with_output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("stopped: 1 of 6 cells have ended") && said.contains("the same command"), "{said}");
    let again = bench(dir.path(), &["run", "stopped.toml", "--out", "out"]);
    assert!(text(&again).contains("1 of 6 cells were done before"), "{}", text(&again));
}

#[test]
fn what_becomes_of_experiment_and_program_meanwhile_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let file = experiment(dir.path(), "edited", "[920, 921]", 10, METHODS);
    let program = dir.path().join("bench");
    std::fs::copy(env!("CARGO_BIN_EXE_bench"), &program).unwrap();
    let child = begun(&program, dir.path(), "edited.toml");
    let start = Instant::now();
    while !dir.path().join("out/plan.json").is_file() {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing was begun");
        std::thread::sleep(Duration::from_millis(5));
    }
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "this is no experiment").unwrap();
    std::fs::remove_file(&program).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(results(&dir.path().join("out")).len(), 4);
    // whoever may read a file made here may read the adapters
    let mode = |path: &Path| {
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions()) & 0o777
    };
    let files = std::fs::read_dir(dir.path().join("out/runs")).unwrap().map(|entry| entry.unwrap().path());
    assert!(files.map(|path| mode(&path)).all(|found| found == mode(&file)), "modes differ");
    // another build of the program, with the same numerics
    std::fs::write(&file, good).unwrap();
    let mut other = std::fs::read(env!("CARGO_BIN_EXE_bench")).unwrap();
    other.extend_from_slice(b"rebuilt");
    std::fs::write(&program, other).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let again = begun(&program, dir.path(), "edited.toml").wait_with_output().unwrap();
    assert!(text(&again).contains("4 of 4 cells were done before"), "{}", text(&again));
}

#[test]
fn a_cells_process_holds_its_own_cell() {
    let dir = tempfile::tempdir().unwrap();
    let peak = |rows: usize, name: &str, more: &str| {
        let row = |i: usize| {
            format!("[[method]]\nname = \"lora\"\nrank = 2\nlabel = \"row {i}\"\nalpha = {}\n", i + 1)
        };
        let methods: String = (0..rows).map(row).collect();
        let file = experiment(dir.path(), name, "[0]", 4, &format!("{more}{methods}"));
        let arguments =
            ["run", file.to_str().unwrap(), "--out", name, "--only", "row 0", "--task", "sentiment"];
        let output = bench(dir.path(), &arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let (_, record) = Record::read_folder(&dir.path().join(name).join("runs")).unwrap().remove(0);
        record.measured.unwrap().memory.host_allocated_peak.unwrap() as f64
    };
    let assets = root().join("assets/snippets").canonicalize().unwrap();
    let other = |name: &str| {
        format!(
            "[[task]]\nname = \"{name}\"\nkind = \"regression\"\ntrain = \"{0}/rating-train.tsv\"\n\
             validation = \"{0}/rating-test.tsv\"\ncolumns = {{ label = \"rating\" }}\n",
            assets.display()
        )
    };
    let alone = peak(2, "alone", "");
    let others = [peak(1000, "rows", ""), peak(2, "tasks", &(other("a") + &other("b") + &other("c")))];
    for peak in others {
        assert!((peak / alone - 1.0).abs() < 0.01, "{alone} alone, {peak} among others");
    }
}
