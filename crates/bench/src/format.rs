//! Numbers as a reader wants them.

use std::path::Path;

/// Digits in groups of three.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let group = |group: &[u8]| String::from_utf8_lossy(group).into_owned();
    let groups: Vec<String> = digits.as_bytes().rchunks(3).rev().map(group).collect();
    groups.join(",")
}

/// `1 cell`, `2 cells`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{} {what}{}", grouped(count as u64), if count == 1 { "" } else { "s" })
}

/// Bytes in the largest unit of which there is at least one.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

/// A duration that is known roughly.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..90 => format!("{seconds:.0} s"),
        90..5400 => format!("{:.0} min", seconds / 60.0),
        5400..172_800 => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

/// Bytes of the files in `folder` and in all below it; what cannot be read has none.
pub(crate) fn disk(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => disk(&entry.path()),
            _ => entry.metadata().map_or(0, |file| file.len()),
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([1, 2].map(|count| counted(count, "cell")), ["1 cell", "2 cells"]);
        assert_eq!([12, 1536, 5 << 20, 3 << 30].map(bytes), ["12 bytes", "1.5 KiB", "5.0 MiB", "3.0 GiB"]);
        let durations = [0.4, 89.0, 150.0, 5400.0, 864_000.0].map(duration);
        assert_eq!(durations, ["0 s", "89 s", "2 min", "1 h 30 min", "10.0 days"]);
    }
}
