//! Two results side by side: runs of the same experiment by two programs, or two reports of a device.

mod scores;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use peftlab_record::{
    DevicePeakSource, DeviceReport, Measure, Memory, Record, RecordError, Status, Step, read_table,
    steps_path,
};

use crate::format::{grouped, mebibytes, significant};
use crate::stats::median;
use crate::{ReportError, kernels, text};

/// What one program made of an experiment.
struct Side {
    name: String,
    runs: Vec<(PathBuf, Record)>,
}

/// A method on a task, over seeds.
struct Entry {
    tokens_per_second: Option<f64>,
    memory: Vec<Memory>,
    utilisation: Option<f64>,
    /// Bytes by which what is in use grew from the first timed step to the last: the most of any run.
    growth: Option<f64>,
    /// Floating-point operations a token: forward, and backward to the inputs alone.
    operations: f64,
    failure: Option<String>,
}

impl Side {
    fn read(dir: &Path) -> Result<Self, ReportError> {
        let runs = Record::read_all(dir)?;
        if runs.is_empty() {
            return Err(ReportError::Empty(dir.to_owned()));
        }
        let name =
            dir.canonicalize().ok().and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()));
        Ok(Self { name: name.unwrap_or_else(|| dir.display().to_string()), runs })
    }

    fn entry(&self, task: &str, label: &str) -> Result<Option<Entry>, RecordError> {
        let runs: Vec<_> =
            self.runs.iter().filter(|(_, run)| run.task.name == task && run.label == label).collect();
        let Some((_, first)) = runs.first() else { return Ok(None) };
        let measured: Vec<_> =
            runs.iter().filter_map(|(path, run)| Some((path, run.measured.as_ref()?))).collect();
        let mut growth = Vec::new();
        for (path, measured) in &measured {
            let steps: Vec<Step> = read_table(&steps_path(path))?.unwrap_or_default();
            growth.extend(grown(&steps, measured.time.warmup_steps as usize));
        }
        let over = |mut values: Vec<f64>| {
            values.retain(|value| value.is_finite());
            (!values.is_empty()).then(|| median(&values))
        };
        Ok(Some(Entry {
            tokens_per_second: over(measured.iter().map(|(_, m)| m.time.tokens_per_second.median).collect()),
            utilisation: over(measured.iter().filter_map(|(_, m)| m.memory.device_utilisation).collect()),
            memory: measured.iter().map(|(_, m)| m.memory.clone()).collect(),
            growth: growth.into_iter().reduce(f64::max),
            operations: 4.0 * first.parameters.base_total as f64,
            failure: runs.iter().find(|(_, run)| run.measured.is_none()).map(|(_, run)| run.message.clone()),
        }))
    }
}

fn grown(steps: &[Step], warmup: usize) -> Option<f64> {
    let used = |step: Option<&Step>| step.and_then(|step| step.used_bytes).map(|bytes| bytes as f64);
    Some(used(steps.last())? - used(steps.get(warmup))?)
}

type Pick = fn(&Memory) -> Option<u64>;

/// Kinds of peak memory, the most telling first; a comparison is of one kind.
const PEAKS: [(&str, Pick); 3] = [
    ("NVML's peak of the process", |memory| memory.device_process_peak),
    ("peak resident memory of the process", |memory| memory.host_resident_peak),
    ("the most the process had allocated", |memory| memory.host_allocated_peak),
];

fn largest(memory: &[Memory], pick: Pick) -> Option<f64> {
    memory.iter().filter_map(pick).max().map(|bytes| bytes as f64)
}

/// A task and a method's label, with what each side has of them.
struct Pair<'r> {
    task: &'r str,
    label: &'r str,
    own: Option<Entry>,
    other: Option<Entry>,
}

impl Pair<'_> {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.own.iter().chain(&self.other)
    }
}

/// Tasks and methods of either side, in the order of ours.
fn rows<'r>(ours: &'r Side, theirs: Option<&'r Side>) -> Vec<(&'r str, &'r str)> {
    let mut rows = Vec::new();
    let mut known = BTreeSet::new();
    for (_, run) in ours.runs.iter().chain(theirs.into_iter().flat_map(|side| &side.runs)) {
        let row = (run.task.name.as_str(), run.label.as_str());
        if known.insert(row) {
            rows.push(row);
        }
    }
    rows
}

/// What makes rows of two folders another experiment, a sentence for each such thing: models, data, or training that are
/// not alike. What a side does not tell is not held against it.
fn unlike(ours: &Side, theirs: &Side, rows: &[(&str, &str)]) -> Vec<String> {
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (task, label) in rows {
        let first = |side: &'_ Side| {
            let here = side.runs.iter().map(|(_, run)| run);
            here.filter(|run| run.task.name == *task && run.label == *label)
                .max_by_key(|run| run.status == Status::Done)
                .cloned()
        };
        let (Some(own), Some(other)) = (first(ours), first(theirs)) else { continue };
        let digests = |a: &str, b: &str| !a.is_empty() && !b.is_empty() && a != b;
        let training = |run: &Record| {
            let training = run.measured.as_ref().map(|measured| &measured.training)?;
            Some((training.planned_steps, training.batch_size, training.learning_rate))
        };
        let trained = training(&own).zip(training(&other));
        let differs = [
            ("other models", digests(&own.model.digest, &other.model.digest)),
            ("other data", digests(&own.task.digest, &other.task.digest)),
            ("other steps, batches or learning rates", trained.is_some_and(|(own, other)| own != other)),
        ];
        for (what, _) in differs.into_iter().filter(|(_, differs)| *differs) {
            found.entry(what).or_default().push(format!("{label} on {task}"));
        }
    }
    found.into_iter().map(|(what, rows)| format!("not alike, {what}: {}", rows.join(", "))).collect()
}

/// The most telling kind of memory that some row has on every side that it is on.
fn peak_kind(pairs: &[Pair]) -> (&'static str, Pick) {
    let has = |entry: &Entry, pick: Pick| entry.memory.iter().any(|memory| pick(memory).is_some());
    let telling =
        |(_, pick): &(&str, Pick)| pairs.iter().any(|pair| pair.entries().all(|entry| has(entry, *pick)));
    PEAKS.into_iter().find(telling).unwrap_or(PEAKS[2])
}

/// The runs in the results folder `ours` beside those in `theirs`, by task and method: speed, memory, and, where there are
/// two folders, scores with their differences, tested over seeds and items. What only one of them has is kept, with "-" for
/// the other.
///
/// # Errors
/// Where a folder has no records, or one cannot be read.
pub fn compare_runs(ours: &Path, theirs: Option<&Path>) -> Result<String, ReportError> {
    let ours = Side::read(ours)?;
    let theirs = theirs.map(Side::read).transpose()?;
    let rows = rows(&ours, theirs.as_ref());
    let mut pairs = Vec::new();
    for (task, label) in &rows {
        let other = theirs.as_ref().map(|side| side.entry(task, label)).transpose()?.flatten();
        pairs.push(Pair { task, label, own: ours.entry(task, label)?, other });
    }
    let (what, pick) = peak_kind(&pairs);
    let against = theirs.as_ref().map(|side| side.name.as_str());
    let mut lines = vec![header(&ours.name, against)];
    let mut notes =
        vec![format!("MiB: {what} while training; tokens/s: median of the timed steps, without padding")];
    let difference = |memory: &Memory| memory.device_peak_source == Some(DevicePeakSource::Difference);
    let mut memories = pairs.iter().flat_map(Pair::entries).flat_map(|entry| &entry.memory);
    if what == PEAKS[0].0 && memories.any(difference) {
        notes.push(
            "some of these MiB are what the whole device used above the start: its driver does not list the process"
                .to_owned(),
        );
    }
    for pair in &pairs {
        lines.push(line(pair, against.is_some(), pick));
        for (name, entry) in [(ours.name.as_str(), &pair.own), (against.unwrap_or_default(), &pair.other)] {
            if let Some(why) = entry.as_ref().and_then(|entry| entry.failure.as_ref()) {
                notes.push(format!("{name}, {} on {}: {why}", pair.label, pair.task));
            }
        }
    }
    notes.push(
        "used, reserved: what tensors use, and what the allocator holds, at the end of training".to_owned(),
    );
    notes.push("growth: MiB in use after the last step less those after the first timed one".to_owned());
    notes.push(
        "TFLOP/s: four operations a token and parameter of the base; busy: share of time with a kernel"
            .to_owned(),
    );
    let mut text = table(&lines, &notes);
    if let Some(theirs) = &theirs {
        for note in unlike(&ours, theirs, &rows) {
            text = format!("{text}{note}\n");
        }
        let scores = scores::table(&ours, theirs, &rows)?;
        if !scores.is_empty() {
            text = format!("{scores}\n{text}");
        }
    }
    Ok(text + &kernels::tables(ours.runs.iter().map(|(_, run)| run)))
}

fn header(ours: &str, theirs: Option<&str>) -> Vec<String> {
    let mut header = vec!["task".to_owned(), "method".to_owned(), format!("{ours} tokens/s")];
    header.extend(theirs.into_iter().flat_map(|theirs| [theirs.to_owned(), "ratio".to_owned()]));
    header.push(format!("{ours} MiB"));
    header.extend(theirs.into_iter().flat_map(|theirs| [theirs.to_owned(), "ratio".to_owned()]));
    header.extend(["used", "reserved", "growth", "TFLOP/s", "busy %"].map(str::to_owned));
    header
}

fn line(pair: &Pair, both: bool, pick: Pick) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| grouped(value.round() as u64));
    let (own, other) = (pair.own.as_ref(), pair.other.as_ref());
    let rate = |entry: &Entry| entry.tokens_per_second;
    let peak = |entry: &Entry| largest(&entry.memory, pick);
    let mut line = vec![pair.task.to_owned(), pair.label.to_owned(), number(own.and_then(rate))];
    if both {
        let theirs = other.and_then(rate);
        line.extend([number(theirs), ratio(own.and_then(rate), theirs)]);
    }
    line.push(mebibytes(own.and_then(peak)));
    if both {
        let theirs = other.and_then(peak);
        line.extend([mebibytes(theirs), ratio(own.and_then(peak), theirs)]);
    }
    let memory = |pick: Pick| mebibytes(own.and_then(|own| largest(&own.memory, pick)));
    let growth = own.and_then(|own| own.growth);
    let operations = own.and_then(|own| Some(own.tokens_per_second? * own.operations / 1e12));
    let busy = own.and_then(|own| own.utilisation);
    line.extend([
        memory(|memory| memory.device_used),
        memory(|memory| memory.device_reserved),
        growth.map_or("-".to_owned(), |bytes| format!("{:+.2}", bytes / f64::from(1 << 20))),
        operations.map_or("-".to_owned(), significant),
        busy.map_or("-".to_owned(), |percent| format!("{percent:.0}")),
    ]);
    line
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2}", ours / theirs),
        _ => "-".to_owned(),
    }
}

/// A device's report as a table.
pub fn device_table(report: &DeviceReport) -> String {
    measures(report, None)
}

/// Two reports of a device beside each other, where they measured the same.
pub fn compare_devices(ours: &DeviceReport, theirs: &DeviceReport) -> String {
    measures(ours, Some(theirs))
}

fn measures(ours: &DeviceReport, theirs: Option<&DeviceReport>) -> String {
    let mut header = vec!["".to_owned(), "".to_owned(), ours.program.clone()];
    header.extend(theirs.into_iter().flat_map(|theirs| [theirs.program.clone(), "ratio".to_owned()]));
    header.push("unit".to_owned());
    let mut lines = vec![header];
    let mut notes: Vec<String> = ours.facts.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    let value = |measure: &Measure| measure.value.map_or("failed".to_owned(), significant);
    for own in &ours.measures {
        let mut line = vec![own.group.clone(), own.name.clone(), value(own)];
        if let Some(theirs) = theirs {
            let other =
                theirs.measures.iter().find(|other| (&other.group, &other.name) == (&own.group, &own.name));
            line.push(other.map_or("-".to_owned(), value));
            line.push(ratio(own.value, other.and_then(|other| other.value)));
        }
        line.push(own.unit.clone());
        lines.push(line);
        notes.extend(own.note.iter().map(|note| format!("{}, {}: {note}", own.group, own.name)));
    }
    format!("{}\n\n{}", ours.device, table(&lines, &notes))
}

fn table(lines: &[Vec<String>], notes: &[String]) -> String {
    let mut text = text::table(&lines[0], lines[1..].to_vec(), 2, None);
    for note in notes {
        let _ = writeln!(text, "{note}");
    }
    text
}

#[cfg(test)]
mod tests {
    use peftlab_record::{Prediction, predictions_path, write_table};

    use super::*;
    use crate::made::Made;

    fn report(program: &str, values: &[(&str, Option<f64>)]) -> DeviceReport {
        let measure = |(name, value): &(&str, Option<f64>)| Measure {
            group: "copy".to_owned(),
            name: (*name).to_owned(),
            unit: "GB/s".to_owned(),
            higher_is_better: true,
            value: *value,
            note: value.is_none().then(|| "no room".to_owned()),
        };
        DeviceReport {
            program: program.to_owned(),
            device: "cpu".to_owned(),
            facts: [("driver".to_owned(), "1.2".to_owned())].into(),
            measures: values.iter().map(measure).collect(),
        }
    }

    #[test]
    fn what_both_measured_has_a_ratio() {
        let ours = report("ours", &[("a", Some(150.0)), ("b", None), ("c", Some(0.0123))]);
        let text = compare_devices(&ours, &report("theirs", &[("b", Some(1.0)), ("a", Some(100.0))]));
        let words = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap();
            line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(words("copy  a"), ["a", "150", "100", "1.50", "GB/s"]);
        assert_eq!(words("copy  b"), ["b", "failed", "1.00", "-", "GB/s"]);
        assert_eq!(words("copy  c"), ["c", "0.0123", "-", "-", "GB/s"]);
        assert!(text.contains("copy, b: no room") && text.contains("driver: 1.2"), "{text}");
    }

    #[test]
    fn scores_are_tested_and_what_one_side_lacks_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str, methods: &[(&'static str, f64)]| {
            let path = dir.path().join(name);
            for (row, (label, loss)) in methods.iter().enumerate() {
                for seed in 0..3 {
                    write(&path, row, label, *loss, seed);
                }
            }
            path
        };
        let ours = folder("ours", &[("lora", 1.0), ("bitfit", 1.0), ("full", 2.0)]);
        let theirs = folder("theirs", &[("ia3", 1.0), ("bitfit", 1.5), ("lora", 1.001)]);
        let text = compare_runs(&ours, Some(&theirs)).unwrap();
        let scores = text.split("\n\n").next().unwrap();
        let words = |table: &str, label: &str| -> Vec<String> {
            let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(label));
            line.unwrap_or_else(|| panic!("{label}: {table}")).split_whitespace().map(str::to_owned).collect()
        };
        let lora = words(scores, "lora");
        assert_eq!(lora[9], "-0.001", "{scores}");
        assert!(lora[13].parse::<f64>().unwrap() > 0.3, "{scores}");
        let bitfit = words(scores, "bitfit");
        assert_eq!((bitfit[9].as_str(), bitfit[13].as_str()), ("-0.500", "<0.001"), "{scores}");
        assert_eq!(words(scores, "ia3")[3], "-", "{scores}");
        assert_eq!(words(scores, "full")[6..], ["-", "-", "-", "-"], "{scores}");
        let speed = text.split("\n\n").nth(1).unwrap();
        assert_eq!(words(speed, "ia3")[2..5], ["-", "100", "-"], "{speed}");
        assert_eq!(words(speed, "full")[2..5], ["100", "-", "-"], "{speed}");
        // the same results beside themselves
        let same = compare_runs(&ours, Some(&ours)).unwrap();
        assert_eq!(words(same.split("\n\n").next().unwrap(), "lora")[13], "1.000", "{same}");
        // one folder is not compared with anything
        assert!(!compare_runs(&ours, None).unwrap().contains("difference"));
    }

    /// A record of a mean loss of ten texts, with its predictions.
    fn write(dir: &Path, row: usize, label: &'static str, loss: f64, seed: u64) {
        let runs = dir.join(peftlab_record::RUNS);
        std::fs::create_dir_all(&runs).unwrap();
        let by_seed = [0.02, -0.01, 0.0][seed as usize];
        let made =
            Made { row, label: Some(label), seed, loss: loss + by_seed, tested: true, ..Made::default() };
        let path = runs.join(format!("{row}-{seed}.json"));
        made.record().write(&path).unwrap();
        let text = |item: u64| Prediction {
            item,
            expected: 10.0,
            predicted: 10.0 * (loss + by_seed) + if item.is_multiple_of(2) { 0.1 } else { -0.1 },
            loss: 0.0,
        };
        let items: Vec<Prediction> = (0..10).map(text).collect();
        write_table(&predictions_path(&path), &items).unwrap();
    }

    #[test]
    fn growth_is_counted_after_the_warm_up() {
        let step = |step: u64, used: u64| Step {
            step,
            loss: 1.0,
            learning_rate: 0.1,
            seconds: 1.0,
            tokens: 1,
            used_bytes: Some(used),
        };
        let steps = [step(1, 0), step(2, 100), step(3, 100), step(4, 130)];
        assert_eq!(grown(&steps, 1), Some(30.0));
        assert_eq!(grown(&steps[..3], 1), Some(0.0));
        assert_eq!(grown(&steps, 4), None);
    }
}
