//! Changed inputs of every reader: whatever is in a file, it is read or refused by name. No input makes the program
//! panic, hang, or allocate what a header merely claims.
//!
//! Without settings a fixed, small number of inputs is tried for each target. CONTRIBUTING.md says how to try for
//! longer, and what to do with a finding.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may"
)]

mod corpus;
mod mutate;
mod targets;
mod watch;

use std::backtrace::Backtrace;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use corpus::Seed;
use mutate::{Numbers, mutant};
use targets::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: watch::Watched = watch::Watched;

/// What each byte of an input may cost.
const ALLOWED_FOR_A_BYTE: usize = 64;
/// Above this an input hangs: of the processor's time, which a machine with other work does not stretch, or of any
/// time where it waits.
const LONGEST: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Findings after which a target is left.
const ENOUGH: usize = 10;

/// Where the last panic was, and how it came about.
static PANIC: Mutex<Option<(String, String)>> = Mutex::new(None);

struct Settings {
    seconds: Option<u64>,
    seed: u64,
    replay: Option<PathBuf>,
}

/// What a target's thread is at, for the one that watches it.
#[derive(Default)]
struct Progress {
    /// Inputs tried.
    tried: AtomicU64,
    /// Inputs that were read without an error.
    read: AtomicU64,
    findings: AtomicU64,
    /// Milliseconds since the start at which the input began; 0 when there is none.
    began: AtomicU64,
    /// The processor's milliseconds at that moment.
    began_work: AtomicU64,
}

/// What the program has taken of the processor, in milliseconds; 0 where the system does not tell.
fn worked() -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // the fields behind the name, which may hold anything: the 12th and 13th are hundredths of seconds
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    10 * fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>()
}

fn main() -> ExitCode {
    let setting = |name: &str| std::env::var(format!("PEFTLAB_FUZZ_{name}")).ok();
    let settings = Settings {
        seconds: setting("SECONDS").map(|seconds| seconds.parse().expect("a number of seconds")),
        seed: setting("SEED").map_or(1, |seed| seed.parse().expect("a number")),
        replay: setting("REPLAY").map(PathBuf::from),
    };
    let only = setting("TARGET").filter(|target| target != "all");
    let chosen: Vec<&'static Target> =
        TARGETS.iter().filter(|target| only.as_deref().is_none_or(|name| name == target.name)).collect();
    assert!(!chosen.is_empty(), "there are {:?}", TARGETS.iter().map(|t| t.name).collect::<Vec<_>>());
    // SAFETY: no other thread runs yet. Models of the Hub are never fetched here.
    unsafe { std::env::set_var("HF_HUB_OFFLINE", "1") };
    std::panic::set_hook(Box::new(|info| {
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        *PANIC.lock().unwrap() = Some((format!("{at}: {info}"), Backtrace::force_capture().to_string()));
    }));
    let settings = Arc::new(settings);
    let findings: u64 = chosen.into_iter().map(|target| watched(target, &settings)).sum();
    if findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tries a target on a thread of its own, and ends the program where an input does not end.
fn watched(target: &'static Target, settings: &Arc<Settings>) -> u64 {
    let work = tempfile::tempdir().unwrap();
    let progress = Arc::new(Progress::default());
    let start = Instant::now();
    println!("{}: inputs are in {} while they are tried", target.name, work.path().display());
    let thread = {
        let (folder, progress, settings) = (work.path().to_owned(), progress.clone(), settings.clone());
        // as much stack as a program's first thread has
        let builder = std::thread::Builder::new().stack_size(8 << 20);
        builder.spawn(move || Trial { target, folder, start, progress, settings }.all()).unwrap()
    };
    while !thread.is_finished() {
        std::thread::sleep(Duration::from_millis(if settings.seconds.is_some() { 100 } else { 10 }));
        let began = progress.began.load(Ordering::Relaxed);
        let waited = start.elapsed().saturating_sub(Duration::from_millis(began));
        let spent = || worked().saturating_sub(progress.began_work.load(Ordering::Relaxed));
        let hangs = began > 0
            && waited > LONGEST
            && (waited > LONGEST_WAIT || Duration::from_millis(spent()) > LONGEST);
        let story = watch::caught().or(hangs.then(|| format!("takes more than {LONGEST:?}")));
        if let Some(story) = story {
            let tried = progress.tried.load(Ordering::Relaxed);
            keep(target.name, settings.seed, tried, &work.path().join("input"), &story);
            // a thread that is stuck cannot be ended alone
            std::process::exit(1);
        }
    }
    thread.join().expect("the target's own thread");
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    println!(
        "{}: {} inputs in {:.1} s, {} of them read without an error; {} findings",
        target.name,
        count(&progress.tried),
        start.elapsed().as_secs_f64(),
        count(&progress.read),
        count(&progress.findings)
    );
    count(&progress.findings)
}

/// Says what was found, and keeps the input to try it again.
fn keep(target: &str, seed: u64, tried: u64, input: &Path, story: &str) {
    let kept = corpus::root().join("target/hostile").join(format!("{target}-{seed}-{tried}"));
    Seed::read(input).write(&kept);
    println!("FINDING in {target}, seed {seed}, input {tried}, kept in {}", kept.display());
    // of where it came about, what is ours
    let ours = |line: &&str| {
        !line.starts_with("  ")
            || line.contains("/crates/")
            || std::env::var_os("PEFTLAB_FUZZ_REPLAY").is_some()
    };
    story.lines().filter(ours).for_each(|line| println!("{line}"));
}

/// A target that is being tried.
struct Trial {
    target: &'static Target,
    folder: PathBuf,
    start: Instant,
    progress: Arc<Progress>,
    settings: Arc<Settings>,
}

impl Trial {
    fn all(&self) {
        // what every input may name
        Seed::read(&corpus::corpora().join("base")).write(&self.folder.join("base"));
        let run = (self.target.prepare)(&self.folder);
        let mut known = HashSet::new();
        if let Some(path) = &self.settings.replay {
            self.one(&Seed::read(path), &*run, &mut known);
            return;
        }
        let seeds = (self.target.seeds)();
        // a file that was found once is part of the corpus, and tried as it is
        for seed in &seeds {
            self.one(seed, &*run, &mut known);
        }
        let mut numbers = Numbers::new(self.settings.seed);
        let inputs = if self.settings.seconds.is_some() { usize::MAX } else { self.target.inputs };
        for _ in 0..inputs {
            let out_of_time = |seconds| self.start.elapsed() >= Duration::from_secs(seconds);
            if known.len() >= ENOUGH || self.settings.seconds.is_some_and(out_of_time) {
                break;
            }
            self.one(&self.changed(&seeds, &mut numbers), &*run, &mut known);
        }
    }

    /// One of the seeds with one of its files changed, sometimes two.
    fn changed(&self, seeds: &[Seed], numbers: &mut Numbers) -> Seed {
        let mut seed = numbers.pick(seeds).clone();
        let donor = numbers.pick(seeds);
        for _ in 0..=usize::from(numbers.once_in(8)) {
            let ours: Vec<usize> = (0..seed.files.len())
                .filter(|place| (self.target.changes)(&seed.files[*place].0.to_string_lossy()))
                .collect();
            let (name, bytes) = &mut seed.files[*numbers.pick(&ours)];
            let same = |other: &Path| other.extension() == name.extension();
            let donors: Vec<&[u8]> =
                donor.files.iter().filter(|(other, _)| same(other)).map(|(_, bytes)| &bytes[..]).collect();
            let donor = if donors.is_empty() { &[][..] } else { *numbers.pick(&donors) };
            *bytes = mutant(&name.to_string_lossy(), bytes, donor, numbers);
        }
        seed
    }

    /// Tries one input.
    fn one(&self, seed: &Seed, run: &dyn Fn(&Seed) -> Result<(), String>, known: &mut HashSet<String>) {
        let input = self.folder.join("input");
        seed.write(&input);
        let tried = self.progress.tried.fetch_add(1, Ordering::Relaxed);
        let now = self.start.elapsed().as_millis() as u64;
        self.progress.began_work.store(worked(), Ordering::Relaxed);
        self.progress.began.store(now.max(1), Ordering::Relaxed);
        watch::allow(self.target.allowed + ALLOWED_FOR_A_BYTE * seed.size());
        let outcome = catch_unwind(AssertUnwindSafe(|| run(seed)));
        watch::allow_all();
        self.progress.began.store(0, Ordering::Relaxed);
        let story = match outcome {
            Ok(Ok(())) => {
                self.progress.read.fetch_add(1, Ordering::Relaxed);
                None
            }
            Ok(Err(message)) => unnamed(&message, seed, &self.folder),
            Err(_) => Some(PANIC.lock().unwrap().take().unwrap_or_default()),
        };
        if let Some((what, how)) = story
            && known.insert(what.chars().take(120).filter(|c| !c.is_ascii_digit()).collect())
        {
            self.progress.findings.fetch_add(1, Ordering::Relaxed);
            keep(self.target.name, self.settings.seed, tried, &input, &format!("{what}\n{how}"));
        }
        if self.settings.replay.is_some() {
            println!("ended; at most {} MiB were live", watch::peak() >> 20);
        }
    }
}

/// An error must name the file that is wrong, or the one that it does not go with.
fn unnamed(message: &str, seed: &Seed, folder: &Path) -> Option<(String, String)> {
    let names = |path: &Path| path.file_name().is_some_and(|name| message.contains(&*name.to_string_lossy()));
    // a path that an input made up is a name, too
    let named = seed.files.iter().any(|(path, _)| names(path))
        || message.starts_with('/')
        || message.contains(": /")
        || message.contains(&*folder.join("base").to_string_lossy())
        || message.contains(&*folder.join("input").to_string_lossy());
    (!named).then(|| ("an error names no file".to_owned(), message.to_owned()))
}
