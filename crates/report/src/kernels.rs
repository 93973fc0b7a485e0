//! Where the device's time goes, of the runs that watched it.

use std::fmt::Write;

use peftlab_record::{KernelProfile, KernelTime, Record};

use crate::format::significant;
use crate::text;

/// Kernels that have a line of their own; the others share one.
const SHOWN: usize = 20;

/// Characters of a kernel's name.
const LONGEST: usize = 80;

/// A table for every profile among `runs`; empty where there is none.
pub(crate) fn tables<'a>(runs: impl Iterator<Item = &'a Record>) -> String {
    let mut text = String::new();
    for run in runs {
        if let Some(profile) = run.measured.as_ref().and_then(|measured| measured.kernels.as_ref()) {
            let _ = writeln!(
                text,
                "\nkernels of {} on {}, seed {}, by step\n{}",
                run.label,
                run.task.name,
                run.seed,
                table(profile)
            );
        }
    }
    text
}

fn table(profile: &KernelProfile) -> String {
    if profile.kernels.is_empty() {
        return "none: the device launches no kernels".to_owned();
    }
    let steps = profile.steps.max(1) as f64;
    let busy: f64 = profile.kernels.iter().map(|kernel| kernel.seconds).sum();
    let line = |name: &str, launches: u64, seconds: f64| {
        vec![
            name.to_owned(),
            format!("{:.0}", launches as f64 / steps),
            significant(seconds / steps * 1e3),
            significant(100.0 * seconds / busy),
        ]
    };
    let mut lines = vec![["kernel", "launches", "ms", "%"].map(str::to_owned).to_vec()];
    let (shown, others) = profile.kernels.split_at(profile.kernels.len().min(SHOWN));
    lines.extend(shown.iter().map(|kernel| line(&telling(&kernel.name), kernel.launches, kernel.seconds)));
    let sum = |kernels: &[KernelTime]| {
        (
            kernels.iter().map(|kernel| kernel.launches).fold(0, u64::saturating_add),
            kernels.iter().map(|kernel| kernel.seconds).sum(),
        )
    };
    if !others.is_empty() {
        let (launches, seconds) = sum(others);
        lines.push(line(&format!("{} others", others.len()), launches, seconds));
    }
    let (launches, seconds) = sum(&profile.kernels);
    lines.push(line("all", launches, seconds));
    let step = significant(profile.seconds / steps * 1e3);
    format!(
        "{}a step took {step} ms while every kernel was timed; without that it is faster",
        text::table(&lines[0], lines[1..].to_vec(), 1, None)
    )
}

/// A kernel's name without the parts that most of them have, and no longer than a line can be.
fn telling(name: &str) -> String {
    let common = |part: &&str| part.starts_with("__") || part.starts_with("Dynamic") || *part == "()";
    let parts: Vec<&str> = name.split(" | ").filter(|part| !common(part)).collect();
    let text = parts.join(" | ");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_ones_share_a_line() {
        let kernel = |i: u64| KernelTime { name: format!("k{i}"), launches: 2 * i, seconds: 0.01 };
        let profile = KernelProfile { steps: 2, seconds: 0.5, kernels: (1..=25).map(kernel).collect() };
        let text = table(&profile);
        let words = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(words("k20"), ["k20", "20", "5.00", "4.00"]);
        assert!(!text.contains("k21"));
        assert_eq!(words("5 others"), ["5", "others", "115", "25.0", "20.0"]);
        assert_eq!(words("all"), ["all", "325", "125", "100"]);
        assert!(text.ends_with("a step took 250 ms while every kernel was timed; without that it is faster"));
        assert_eq!(telling("A | DynamicScalar | __Lhs | () | B"), "A | B");
        assert_eq!(telling(&"x".repeat(100)), "x".repeat(80) + "..");
        assert_eq!(table(&KernelProfile::default()), "none: the device launches no kernels");
    }
}
