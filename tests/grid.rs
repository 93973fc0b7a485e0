//! Which cells of a grid are run: plans are real, and who runs the cells only writes down which they were.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use common::root;
use peftlab_harness::HarnessError;
use peftlab_harness::execute::{
    Ended, Executor, Failure, Job, Line, Outcome, Progress, Stage, Wanted, run_grid,
};
use peftlab_harness::plan::{Cell, Plan};
use peftlab_peft::Registry;
use peftlab_record::{Manifest, Record};
use serde_json::{Value, json};

/// Runs nothing: writes a record for each job, with a validation loss that its learning rate decides.
#[derive(Default)]
struct Mock {
    ran: Mutex<Vec<String>>,
    /// Jobs that are stopped, by their names here.
    stop: Vec<String>,
    /// Jobs that fail, with the reason.
    fail: Vec<(String, String)>,
    stopped: AtomicBool,
}

/// What a job is called in these tests.
fn name(job: &Job) -> String {
    let trial = if job.trial { format!(" at {:e}", job.training.learning_rate) } else { String::new() };
    format!("{} on {}, {}{trial}", job.label, job.task.name, job.seed)
}

impl Executor for Mock {
    fn run(&self, job: &Job, _: &mut dyn FnMut(&Line)) -> Result<Ended, HarnessError> {
        let name = name(job);
        self.ran.lock().unwrap().push(name.clone());
        if self.stop.contains(&name) {
            return Ok(Ended::Stopped("killed by signal 15".to_owned()));
        }
        if let Some((_, message)) = self.fail.iter().find(|(job, _)| *job == name) {
            let said = "stack backtrace:\n  0: frame".to_owned();
            return Ok(Ended::Failed(Failure { out_of_memory: false, message: message.clone(), said }));
        }
        std::fs::write(job.record_path(), record(job).to_string()).unwrap();
        // as the real one, for both splits
        let items = "item,expected,predicted,loss\n0,0.0,0.0,0.1\n1,1.0,0.0,0.9\n";
        for path in [
            peftlab_record::predictions_path(&job.record_path()),
            peftlab_record::validation_predictions_path(&job.record_path()),
        ] {
            std::fs::write(path, items).unwrap();
        }
        Ok(Ended::Well)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

fn record(job: &Job) -> Value {
    let loss = (job.training.learning_rate.log10() + 2.0).abs();
    let scores = |split: &str| json!([{ "metric": "accuracy", "value": if split == "test" { 0.5 } else { 0.9 - loss / 10.0 }, "items": 2 }]);
    let spread = json!({ "p10": 1.0, "median": 1.0, "p90": 1.0 });
    json!({
        "schema": 1, "experiment": job.experiment, "identity": job.identity, "inputs": job.inputs, "row": job.row,
        "label": job.label, "method": job.method, "family": "additive", "seed": job.seed,
        "task": { "name": job.task.name, "kind": "classification", "metric": "accuracy", "higher_is_better": true,
            "in_points": true, "index": job.task_index, "digest": "" },
        "model": { "name": "", "architecture": "", "source": "", "digest": "", "dtype": "f32" },
        "status": "done", "message": "", "parameters": peftlab_record::Parameters::default(), "settings": {},
        "measured": {
            "training": { "steps": 1, "planned_steps": 1, "batch_size": 1, "learning_rate": job.training.learning_rate,
                "tokens": 1, "samples": 1, "stopped_early": false, "best_step": 1, "final_loss": loss,
                "validation_loss_before": 1.0, "validation_loss_after": loss, "searched": job.searched },
            "validation": scores("validation"), "test": if job.trial { json!([]) } else { scores("test") },
            "time": { "load": 1.0, "train": 1.0, "evaluate": 1.0, "warmup_steps": 0, "step": spread,
                "tokens_per_second": spread, "samples_per_second": spread },
            "memory": {}, "checks": { "frozen_unchanged": 1, "trained_updated": 1, "step0_difference": 0.0 },
            "weights_digest": "", "losses_digest": "",
        },
        "environment": peftlab_record::Environment::default(),
    })
}

/// What is said, to be looked at.
#[derive(Default)]
struct Heard {
    reasons: Vec<String>,
    stopped: Vec<String>,
    waiting: usize,
    failed: Vec<String>,
}

impl Progress for Heard {
    fn start(&mut self, stage: &Stage) {
        self.reasons.extend(stage.reasons.iter().map(|(why, count)| format!("{count} {why}")));
        self.waiting += stage.waiting;
    }
    fn cell(&mut self, _: &Cell) {}
    fn line(&mut self, _: &Cell, _: &Line) {}
    fn finish(&mut self, cell: &Cell, record: &Record) {
        if record.measured.is_none() {
            self.failed.push(format!("{}: {}", cell.label, record.message));
        }
    }
    fn stopped(&mut self, cell: &Cell, why: &str) {
        self.stopped.push(format!("{}: {why}", cell.label));
    }
    fn waits(&mut self, _: usize) {}
}

/// An experiment in a folder of its own, with copies of model and data to be changed.
struct Folder {
    dir: tempfile::TempDir,
    head: String,
    model: String,
    training: String,
    tasks: Vec<String>,
    methods: Vec<String>,
}

const LORA: &str = "name = \"lora\"\nrank = 2";
const BITFIT: &str = "name = \"bitfit\"";

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        std::fs::create_dir(&model).unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(root().join("assets/bert-tiny").join(name), model.join(name)).unwrap();
        }
        let folder = Self {
            dir,
            head: "seeds = [0, 1]\n".to_owned(),
            model: "source = \"model\"\n".to_owned(),
            training: "steps = 2\nlearning_rate = 1e-3\n".to_owned(),
            tasks: vec![task("sentiment", "a")],
            methods: vec![LORA.to_owned(), BITFIT.to_owned()],
        };
        folder.data("a", "good");
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Files of a task's data, with this word in them.
    fn data(&self, stem: &str, word: &str) {
        for (split, count) in [("train", 8), ("validation", 4), ("test", 4)] {
            let row = |i: usize| {
                format!("{word} {split} {i}\t{}\n", if i.is_multiple_of(2) { "bad" } else { "fine" })
            };
            let text: String =
                std::iter::once("text\tlabel\n".to_owned()).chain((0..count).map(row)).collect();
            std::fs::write(self.path(&format!("{stem}-{split}.tsv")), text).unwrap();
        }
    }

    fn plan(&self) -> Plan {
        let table = |kind: &str, body: &String| format!("[[{kind}]]\n{body}\n");
        let text = format!(
            "name = \"e\"\ndevice = \"cpu\"\n{}[model]\n{}[training]\n{}{}{}",
            self.head,
            self.model,
            self.training,
            self.tasks.iter().map(|body| table("task", body)).collect::<String>(),
            self.methods.iter().map(|body| table("method", body)).collect::<String>(),
        );
        let path = self.path("e.toml");
        std::fs::write(&path, text).unwrap();
        Plan::read(&path, &Registry::standard()).unwrap()
    }

    fn run_with(&self, mock: &Mock) -> (Outcome, Heard) {
        let mut heard = Heard::default();
        let outcome = run_grid(&self.plan(), &self.out(), &Wanted::default(), mock, &mut heard).unwrap();
        (outcome, heard)
    }

    /// Runs what is to be run: its names, sorted, and why.
    fn run(&self) -> (Vec<String>, Vec<String>) {
        let mock = Mock::default();
        let (outcome, heard) = self.run_with(&mock);
        assert_eq!((outcome.cells.failed, outcome.cells.open), (0, 0));
        let mut ran = mock.ran.into_inner().unwrap();
        ran.sort();
        (ran, heard.reasons)
    }

    fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// What runs after `edit`, which is undone: the folder is as it was, but for what was run.
    fn after(&mut self, edit: impl FnOnce(&mut Self)) -> (Vec<String>, Vec<String>) {
        let kept = (
            self.head.clone(),
            self.model.clone(),
            self.training.clone(),
            self.tasks.clone(),
            self.methods.clone(),
        );
        edit(self);
        let ran = self.run();
        (self.head, self.model, self.training, self.tasks, self.methods) = kept;
        ran
    }

    fn records(&self) -> Vec<(PathBuf, Record)> {
        Record::read_folder(&self.out().join("runs")).unwrap()
    }
}

fn task(name: &str, stem: &str) -> String {
    format!(
        "name = \"{name}\"\nkind = \"classification\"\ntrain = \"{stem}-train.tsv\"\nvalidation = \"{stem}-validation.tsv\"\n\
         test = \"{stem}-test.tsv\"\nlabels = [\"bad\", \"fine\"]\n"
    )
}

const NOTHING: [&str; 0] = [];

#[test]
fn of_an_edited_experiment_exactly_the_cells_run_whose_numbers_it_decides() {
    let mut folder = Folder::new();
    let lora = ["lora r=2 q,v on sentiment, 0", "lora r=2 q,v on sentiment, 1"];
    let bitfit = ["bitfit on sentiment, 0", "bitfit on sentiment, 1"];
    let all = [bitfit, lora].concat();
    let (ran, why) = folder.run();
    assert_eq!((ran, why), (all.iter().map(|s| (*s).to_owned()).collect(), vec!["4 new".to_owned()]));
    assert_eq!(folder.run().0, NOTHING);

    // a row on top, the first one away, back again, the other way round
    let (ran, why) = folder.after(|f| f.methods.insert(0, "name = \"ia3\"".to_owned()));
    assert_eq!(ran, ["ia3 k,v,ffn on sentiment, 0", "ia3 k,v,ffn on sentiment, 1"]);
    assert_eq!(why, ["2 new"]);
    assert_eq!(folder.after(|f| drop(f.methods.remove(0))).0, NOTHING);
    assert_eq!(folder.run().0, NOTHING);
    assert_eq!(folder.after(|f| f.methods.reverse()).0, NOTHING);
    // names
    assert_eq!(folder.after(|f| f.methods[0] += "\nlabel = \"mine\"").0, NOTHING);
    assert_eq!(folder.after(|f| f.tasks = vec![task("feeling", "a")]).0, NOTHING);
    assert_eq!(folder.after(|f| f.model += "name = \"tiny\"\n").0, NOTHING);
    // a seed
    let (ran, why) = folder.after(|f| f.head = "seeds = [2, 1, 0]\n".to_owned());
    assert_eq!(ran, ["bitfit on sentiment, 2", "lora r=2 q,v on sentiment, 2"]);
    assert_eq!(why, ["2 new"]);
    // one method's rate, there and back
    let (ran, why) = folder.after(|f| f.methods[0] += "\ntraining = { learning_rate = 1e-2 }");
    assert_eq!(ran, lora);
    assert_eq!(why, ["2 run again: learning_rate changed"]);
    assert_eq!(folder.run().0, NOTHING);
    // another task in front
    folder.data("b", "other");
    let (ran, _) = folder.after(|f| f.tasks.insert(0, task("other", "b")));
    assert_eq!(ran.len(), 4);
    assert!(ran.iter().all(|name| name.contains(" on other, ")), "{ran:?}");
    // what decides speed, or is measured besides
    assert_eq!(folder.after(|f| f.head += "jobs = 2\n").0, NOTHING);
    assert_eq!(folder.after(|f| f.training += "timing_warmup_steps = 1\n").0, NOTHING);
    // steps and epochs are two forms of one setting: 8 rows are a batch of 16
    assert_eq!(folder.after(|f| f.training = "epochs = 2\nlearning_rate = 1e-3\n".to_owned()).0, NOTHING);
    // where things are
    assert_eq!(folder.after(|f| f.model = "source = \"./model\"\n".to_owned()).0, NOTHING);
    folder.data("c", "good");
    assert_eq!(folder.after(|f| f.tasks = vec![task("sentiment", "c")]).0, NOTHING);
    // a tokenizer: the same by another path, and another one
    let tokenizer = std::fs::read_to_string(folder.path("model/tokenizer.json")).unwrap();
    std::fs::write(folder.path("copy.json"), &tokenizer).unwrap();
    assert_eq!(folder.after(|f| f.model += "tokenizer = \"copy.json\"\n").0, NOTHING);
    let lower = "\"lowercase\":true";
    assert!(tokenizer.replace(": ", ":").contains(lower));
    let other = tokenizer.replace(": ", ":").replace(lower, "\"lowercase\":false");
    std::fs::write(folder.path("other.json"), other).unwrap();
    folder.data("a", "Good");
    let (ran, why) = folder.after(|f| f.model += "tokenizer = \"other.json\"\n");
    assert_eq!(ran, all);
    assert_eq!(why, ["4 run again: the task's data, or how they are tokenised, changed"]);
    // data of the same name
    folder.data("a", "awful");
    let (ran, why) = folder.run();
    assert_eq!(ran, all);
    assert_eq!(why, ["4 run again: the task's data, or how they are tokenised, changed"]);
    folder.data("a", "good");
    assert_eq!(folder.run().0, NOTHING);
    // a weight in the middle of the model's file
    let weights = folder.path("model/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let (ran, why) = folder.run();
    assert_eq!((ran.len(), why), (4, vec!["4 run again: the model's files changed".to_owned()]));
}

#[test]
fn a_metric_that_is_added_is_computed_from_what_was_predicted() {
    let mut folder = Folder::new();
    folder.run();
    let metrics = |first: &'static str| move |f: &mut Folder| f.tasks[0] += &format!("metrics = [{first}]\n");
    assert_eq!(folder.after(metrics("\"f1\", \"accuracy\"")).0, NOTHING);
    for (_, record) in folder.records() {
        let measured = record.measured.unwrap();
        for scores in [measured.validation, measured.test] {
            assert_eq!((scores[1].metric.as_str(), scores[1].value, scores[1].items), ("f1", 0.0, 2));
        }
    }
    // without the predictions there is nothing to compute it from
    for (path, _) in folder.records() {
        std::fs::remove_file(peftlab_record::validation_predictions_path(&path)).unwrap();
    }
    let (ran, why) = folder.after(metrics("\"matthews\""));
    assert_eq!((ran.len(), why), (4, vec!["4 run again: `matthews` was not measured".to_owned()]));
}

#[test]
fn nothing_is_written_over_and_the_plan_says_what_the_table_is_of() {
    let mut folder = Folder::new();
    folder.run();
    let first = folder.records();
    folder.after(|f| f.training = "steps = 3\nlearning_rate = 1e-3\n".to_owned());
    let second = folder.records();
    assert_eq!(second.len(), 8);
    assert!(first.iter().all(|one| second.contains(one)), "a record was changed");
    let held = |folder: &Folder| -> Vec<String> {
        let manifest = Manifest::read(&folder.out()).unwrap().unwrap();
        let mut held: Vec<String> = manifest.cells.into_iter().filter_map(|cell| cell.identity).collect();
        held.sort();
        held
    };
    let ids = |records: &[(PathBuf, Record)]| {
        let mut ids: Vec<String> = records.iter().map(|(_, record)| record.identity.clone()).collect();
        ids.sort();
        ids
    };
    assert!(held(&folder).iter().all(|id| !ids(&first).contains(id)));
    folder.run();
    assert_eq!(held(&folder), ids(&first));
    // tasks whose names are alike in names of files
    folder.data("b", "other");
    folder.tasks = vec![task("a b", "a"), task("a-b", "b")];
    let (ran, _) = folder.run();
    assert_eq!(ran.len(), 4);
    assert_eq!(folder.records().len(), 12);
}

#[test]
fn two_rows_of_the_same_settings_are_one_run() {
    let mut folder = Folder::new();
    folder.methods = vec![format!("{LORA}\nlabel = \"a\""), format!("{LORA}\nlabel = \"b\"")];
    assert_eq!(folder.run().0, ["a on sentiment, 0", "a on sentiment, 1"]);
    assert_eq!(folder.run().0, NOTHING);
}

#[test]
fn a_choice_of_a_rate_needs_all_trials() {
    let mut folder = Folder::new();
    folder.head = "seeds = [0]\n".to_owned();
    folder.methods = vec![LORA.to_owned()];
    folder.training = "steps = 2\n[search]\nlearning_rate = [1e-4, 1e-2]\nseed = 7\n".to_owned();
    // the trial that would win is killed
    let mock = Mock { stop: vec!["lora r=2 q,v on sentiment, 7 at 1e-2".to_owned()], ..Mock::default() };
    let (outcome, heard) = folder.run_with(&mock);
    assert_eq!((outcome.trials.open, outcome.cells.open, heard.waiting), (1, 1, 1));
    assert_eq!(heard.stopped, ["lora r=2 q,v: killed by signal 15"]);
    assert_eq!(mock.ran.into_inner().unwrap().len(), 2);
    assert!(folder.records().is_empty());
    // what is missing is run, and then the cell with the rate that is right
    let (ran, _) = folder.run();
    assert_eq!(ran, ["lora r=2 q,v on sentiment, 0", "lora r=2 q,v on sentiment, 7 at 1e-2"]);
    assert_eq!(folder.records()[0].1.measured.as_ref().unwrap().training.learning_rate, 1e-2);
    // a rate more, which does not win: the cell stays, and its record says what it was chosen from
    folder.training = "steps = 2\n[search]\nlearning_rate = [1e-4, 1e-2, 1e-1]\nseed = 7\n".to_owned();
    assert_eq!(folder.run().0, ["lora r=2 q,v on sentiment, 7 at 1e-1"]);
    let searched = folder.records()[0].1.measured.as_ref().unwrap().training.searched.clone().unwrap();
    assert_eq!(searched.len(), 3);
}

#[test]
fn a_failure_is_kept_with_all_that_was_said_and_run_again() {
    let folder = Folder::new();
    let cell = "bitfit on sentiment, 1".to_owned();
    let mock =
        Mock { fail: vec![(cell.clone(), "index out of bounds, at a.rs:1:2".to_owned())], ..Mock::default() };
    let (outcome, heard) = folder.run_with(&mock);
    assert_eq!((outcome.cells.failed, outcome.cells.open), (1, 0));
    assert_eq!(heard.failed, ["bitfit: index out of bounds, at a.rs:1:2"]);
    let (path, record) = folder.records().into_iter().find(|(_, record)| record.measured.is_none()).unwrap();
    assert_eq!(record.message, "index out of bounds, at a.rs:1:2");
    let said = std::fs::read_to_string(path.with_extension("stderr.txt")).unwrap();
    assert!(said.contains("stack backtrace"));
    let (ran, why) = folder.run();
    assert_eq!((ran, why), (vec![cell], vec!["1 failed before".to_owned()]));
}

#[test]
fn some_cells_can_be_asked_for() {
    let folder = Folder::new();
    let ask = |wanted: &Wanted| {
        let mock = Mock::default();
        let outcome = run_grid(&folder.plan(), &folder.out(), wanted, &mock, &mut Heard::default());
        outcome.map(|_| mock.ran.into_inner().unwrap()).map_err(|error| error.to_string())
    };
    let by_method = Wanted { methods: vec!["lora".to_owned()], seeds: vec![1], ..Wanted::default() };
    assert_eq!(ask(&by_method).unwrap(), ["lora r=2 q,v on sentiment, 1"]);
    let refused = ask(&Wanted { tasks: vec!["feeling".to_owned()], ..Wanted::default() }).unwrap_err();
    assert!(refused.contains("--task") && refused.contains("`sentiment`"), "{refused}");
    let refused = ask(&Wanted { seeds: vec![5], ..Wanted::default() }).unwrap_err();
    assert!(refused.contains("--seed") && refused.contains("`0`, `1`"), "{refused}");
}

#[test]
fn files_are_for_whom_the_umask_says() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = Folder::new();
    let mock = Mock { fail: vec![("bitfit on sentiment, 1".to_owned(), "no".to_owned())], ..Mock::default() };
    folder.run_with(&mock);
    let (path, _) = folder.records().into_iter().find(|(_, record)| record.measured.is_none()).unwrap();
    std::fs::write(folder.path("plain"), "").unwrap();
    let plain = mode(&folder.path("plain"));
    for path in [&path, &path.with_extension("stderr.txt"), &folder.out().join("plan.json")] {
        assert_eq!(mode(path), plain, "{}", path.display());
    }
}
