//! Under which conditions times were measured. They decide no score, so that records made under others stand in one table;
//! what they say of speed cannot be compared, and is marked.

use std::collections::HashMap;

use peftlab_record::Record;

use crate::format::counted;

/// What decides the speed of a run, the method and the data aside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Conditions {
    device: String,
    cpu: Option<String>,
    threads: u64,
    jobs: u64,
    profiled: bool,
    timing_warmup_steps: Option<u64>,
}

impl Conditions {
    pub(super) fn of(record: &Record) -> Self {
        let (environment, training) = (&record.environment, &record.settings["training"]);
        Self {
            device: environment.device.clone(),
            cpu: environment.cpu.clone(),
            threads: environment.threads,
            jobs: environment.jobs.max(1),
            profiled: training["profile_kernels"].as_bool() == Some(true),
            timing_warmup_steps: training["timing_warmup_steps"].as_u64(),
        }
    }

    /// The conditions of most of `records` that measured something; of all, where none did.
    pub(super) fn usual<'r>(records: impl Iterator<Item = &'r Record> + Clone) -> Option<Self> {
        let most = |records: &mut dyn Iterator<Item = &'r Record>| {
            let mut counts: HashMap<Self, (usize, u64)> = HashMap::new();
            for record in records {
                let (count, newest) = counts.entry(Self::of(record)).or_default();
                *count += 1;
                *newest = (*newest).max(record.environment.started);
            }
            let worth = |(conditions, count): &(Self, (usize, u64))| (*count, conditions.place());
            counts.into_iter().max_by_key(worth).map(|(conditions, _)| conditions)
        };
        most(&mut records.clone().filter(|record| record.measured.is_some()))
            .or_else(|| most(&mut records.clone()))
    }

    /// What a title says of them.
    pub(super) fn place(&self) -> String {
        format!("{}, {}{}", self.device, threads(self.threads), at_a_time(self.jobs))
    }

    /// How they differ from `usual`, in words.
    pub(super) fn unlike(&self, usual: &Self) -> String {
        let mut found = Vec::new();
        if self.device != usual.device {
            found.push(self.device.clone());
        }
        if self.cpu != usual.cpu {
            found.push(self.cpu.clone().unwrap_or("a processor that its record does not name".to_owned()));
        }
        if self.threads != usual.threads {
            found.push(threads(self.threads));
        }
        if self.jobs != usual.jobs {
            found.push(format!("{} at a time", counted(self.jobs as usize, "run")));
        }
        if self.profiled != usual.profiled {
            found.push(if self.profiled { "every kernel timed" } else { "no kernel timed" }.to_owned());
        }
        if self.timing_warmup_steps != usual.timing_warmup_steps {
            let steps = self.timing_warmup_steps.unwrap_or(0);
            found.push(format!("the first {steps} steps not timed"));
        }
        found.join(", ")
    }
}

fn threads(count: u64) -> String {
    counted(count as usize, "thread")
}

fn at_a_time(jobs: u64) -> String {
    if jobs > 1 { format!(", {jobs} runs at a time") } else { String::new() }
}
