use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::files::read_error;
use crate::{RecordError, write_atomic};

/// What a device can do, as `bench device` measured it; `tools/peer/device.py` writes the same of PyTorch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// What measured: a program with its version.
    pub program: String,
    /// The device, as it is named in experiment files.
    pub device: String,
    /// What the device and the machine say of themselves.
    pub facts: BTreeMap<String, String>,
    /// The measurements, in the order in which they were made.
    pub measures: Vec<Measure>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// What kind of work: `matrix product`, `copy` ...
    pub group: String,
    /// Which one of the kind: shapes and element type.
    pub name: String,
    /// Unit of the value.
    pub unit: String,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// The value; none where it could not be measured.
    pub value: Option<f64>,
    /// Why there is no value, or what limits it.
    pub note: Option<String>,
}

impl DeviceReport {
    /// Reads a report.
    ///
    /// # Errors
    /// Where the file cannot be read or is none.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let text = std::fs::read_to_string(path).map_err(|error| read_error(path, error))?;
        serde_json::from_str(&text).map_err(|error| RecordError::File {
            path: path.to_owned(),
            message: format!("is not what `bench device --out` writes: {error}"),
        })
    }

    /// Writes the report so that a reader sees all of it or nothing.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), RecordError> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| RecordError::File { path: path.to_owned(), message: error.to_string() })?;
        text.push(b'\n');
        write_atomic(path, &text)
    }
}

/// Where a process's memory on a device was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DevicePeakSource {
    /// The driver's account of the process.
    Process,
    /// What the device used more than before the process began, where the driver does not list the process (as in many
    /// containers): other programs that began or ended since are in it.
    Difference,
}
