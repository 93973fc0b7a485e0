//! `bench device`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use clap::ValueEnum;
use peftlab_harness::HarnessError;
use peftlab_harness::device::OpenDevice;
use peftlab_harness::probe::{self, Part, Sizes};
use peftlab_record::{DeviceReport, Measure};

use crate::arguments::DevicePart;
use crate::{Outcome, print};

pub(crate) fn measure(
    name: &str,
    only: &[DevicePart],
    tiny: bool,
    as_json: bool,
    out: Option<&Path>,
) -> Result<Outcome> {
    let device = OpenDevice::named(name)?;
    let sizes = if tiny { Sizes::tiny() } else { Sizes::usual(&device) };
    let program = format!("peftlab {}", env!("CARGO_PKG_VERSION"));
    let mut report =
        DeviceReport { program, device: device.name.clone(), facts: device.facts(), measures: Vec::new() };
    // what fails is in the table, with its reason
    std::panic::set_hook(Box::new(|_| {}));
    for part in DevicePart::value_variants().iter().filter(|part| only.is_empty() || only.contains(part)) {
        let mut tell = |measure: Measure| {
            if !as_json {
                let value =
                    measure.value.map_or("failed".to_owned(), |value| format!("{value:.4} {}", measure.unit));
                print(format!("{}, {}: {value}", measure.group, measure.name));
            }
            report.measures.push(measure);
        };
        match part {
            DevicePart::Product => probe::measure(Part::MatrixProduct, &device.tensors, &sizes, &mut tell),
            DevicePart::Copy => probe::measure(Part::Copy, &device.tensors, &sizes, &mut tell),
            DevicePart::Launch => probe::measure(Part::Launch, &device.tensors, &sizes, &mut tell),
            DevicePart::Attention => probe::measure(Part::Attention, &device.tensors, &sizes, &mut tell),
            DevicePart::Allocation => {
                device.tensors.memory_cleanup();
                tell(largest_allocation(&device, tiny));
            }
        }
    }
    drop(std::panic::take_hook());
    if let Some(out) = out {
        report.write(out)?;
    }
    print(match as_json {
        true => serde_json::to_string_pretty(&report)?,
        false => format!("\n{}", peftlab_report::device_table(&report)),
    });
    let failed = report.measures.iter().any(|measure| measure.value.is_none());
    Ok(if failed { Outcome::Failed } else { Outcome::Done })
}

/// The largest tensor that the device gives at once, to a 64th of what is free: a GPU is asked for all of it, the
/// host for a quarter.
fn largest_allocation(device: &OpenDevice, tiny: bool) -> Measure {
    let found = limit(device, tiny).and_then(|limit| {
        let part = limit / 64;
        let (mut fits, mut fails) = (0, 65);
        while fails - fits > 1 {
            let middle = (fits + fails) / 2;
            *(if allocates(&device.name, middle * part)? { &mut fits } else { &mut fails }) = middle;
        }
        Ok((fits * part, fits == 64))
    });
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (value, note) = match found {
        Ok((0, _)) => (None, Some("not even a 64th of what is free can be had".to_owned())),
        Ok((bytes, true)) => (Some(mebibytes(bytes)), Some("all that was asked for".to_owned())),
        Ok((bytes, false)) => (Some(mebibytes(bytes)), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    Measure {
        group: "memory".to_owned(),
        name: "largest allocation".to_owned(),
        unit: "MiB".to_owned(),
        higher_is_better: true,
        value,
        note,
    }
}

/// Bytes to ask for at most.
fn limit(device: &OpenDevice, tiny: bool) -> Result<u64> {
    if tiny {
        return Ok(64 << 20);
    }
    match &device.nvml {
        Some(nvml) => {
            let memory = nvml.device_memory()?.context("the driver does not tell how much memory is free")?;
            Ok(memory.total_bytes - memory.used_bytes)
        }
        None => {
            let host = peftlab_meter::environment();
            let bytes = host.memory_limit_bytes.or(host.memory_bytes);
            Ok(bytes.context("the system does not tell how much memory there is")? / 4)
        }
    }
}

/// In a process of its own: after a refusal a context may be of no more use.
fn allocates(device: &str, bytes: u64) -> Result<bool> {
    let program = std::env::current_exe().context("the program's own file")?;
    let status = Command::new(program)
        .args(["allocate", device, &bytes.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("a process for one allocation")?;
    Ok(status.success())
}

pub(crate) fn allocate(name: &str, bytes: u64) -> Result<Outcome> {
    let device = OpenDevice::named(name)?;
    Ok(if probe::can_allocate(&device.tensors, bytes) { Outcome::Done } else { Outcome::Failed })
}

/// Two reports, or two results folders.
pub(crate) fn compare(ours: &Path, theirs: Option<&Path>) -> Result<Outcome> {
    for side in [Some(ours), theirs].into_iter().flatten() {
        std::fs::metadata(side).map_err(|error| HarnessError::read(side, &error))?;
    }
    let text = match (ours.is_dir(), theirs.map(Path::is_dir)) {
        (true, None | Some(true)) => peftlab_report::compare_runs(ours, theirs)?,
        (false, None | Some(false)) => {
            let report = DeviceReport::read(ours)?;
            match theirs.map(DeviceReport::read).transpose()? {
                Some(theirs) => peftlab_report::compare_devices(&report, &theirs),
                None => peftlab_report::device_table(&report),
            }
        }
        _ => {
            let message =
                "is compared with something of another kind: give two results folders, or two files";
            return Err(HarnessError::input(ours, message).into());
        }
    };
    print(text.trim_end());
    Ok(Outcome::Done)
}
