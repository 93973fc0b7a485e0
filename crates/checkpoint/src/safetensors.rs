use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{self as format, Metadata, View, serialize};
use serde_json::Value;

use crate::{CheckpointError, Dtype, TensorInfo, TensorSource, floats, map};

/// The one key of a header that is no tensor's name.
const METADATA: &str = "__metadata__";

/// A checkpoint in one or several safetensors files.
///
/// The format: eight bytes with the header's length, the header in JSON, the tensors
/// (<https://github.com/huggingface/safetensors>).
pub struct Safetensors {
    files: Vec<(PathBuf, Mmap)>,
    tensors: BTreeMap<String, Entry>,
}

struct Entry {
    file: usize,
    info: TensorInfo,
    bytes: std::ops::Range<usize>,
}

impl Safetensors {
    /// Opens the files of a checkpoint.
    ///
    /// # Errors
    /// Where a file is truncated, its header is not one or promises more than the file holds, or two files have
    /// a tensor of the same name.
    pub fn open(paths: &[PathBuf]) -> Result<Self, CheckpointError> {
        let mut opened = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for path in paths {
            let bytes = map(path)?;
            for (name, mut entry) in entries(path, &bytes)? {
                entry.file = opened.files.len();
                if opened.tensors.insert(name.clone(), entry).is_some() {
                    return Err(CheckpointError::new(
                        path,
                        format!("tensor `{name}` is in another shard, too"),
                    ));
                }
            }
            opened.files.push((path.clone(), bytes));
        }
        Ok(opened)
    }

    /// The values of a tensor of 64-bit integers.
    ///
    /// # Errors
    /// Where there is no such tensor, or it is of another type.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>, CheckpointError> {
        let (path, entry, bytes) = self.find(name)?;
        match entry.info.dtype {
            Dtype::I64 => Ok(bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            dtype => Err(CheckpointError::new(path, format!("tensor `{name}` has dtype {dtype}, not I64"))),
        }
    }

    /// The file that holds a tensor, if one does.
    pub(crate) fn file_of(&self, name: &str) -> Option<&Path> {
        self.tensors.get(name).map(|entry| self.files[entry.file].0.as_path())
    }

    fn find(&self, name: &str) -> Result<(&Path, &Entry, &[u8]), CheckpointError> {
        let entry = self
            .tensors
            .get(name)
            .ok_or_else(|| CheckpointError::new(self.describe(), format!("there is no tensor `{name}`")))?;
        let (path, bytes) = &self.files[entry.file];
        Ok((path, entry, &bytes[entry.bytes.clone()]))
    }
}

/// The tensors of one file, every range checked against the file. The format's own checks are the format's own crate's,
/// made piece by piece, so that what is wrong can be named.
fn entries(path: &Path, bytes: &[u8]) -> Result<Vec<(String, Entry)>, CheckpointError> {
    let refuse = |message: String| CheckpointError::new(path, message);
    let Some(length) = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length)) else {
        return Err(refuse(format!("is no safetensors file: it has {} bytes", bytes.len())));
    };
    let end = usize::try_from(length).ok().and_then(|n| n.checked_add(8)).filter(|end| *end <= bytes.len());
    let end = end.ok_or_else(|| {
        refuse(format!(
            "promises a header of {length} bytes, but the file has {}: truncated, or no safetensors file; \
             get the file again",
            bytes.len()
        ))
    })?;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..end])
        .map_err(|error| refuse(format!("has a header that is no JSON: {error}; get the file again")))?;
    let mut tensors = Vec::new();
    for (name, value) in header.into_iter().filter(|(name, _)| name != METADATA) {
        let info = one(&name, value, bytes.len() - end).map_err(refuse)?;
        tensors.push((name, info));
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    // no byte is in two tensors, and none in no tensor
    let header = Metadata::new(None, tensors)
        .map_err(|error| refuse(format!("is no safetensors file: {error}; get the file again")))?;
    if header.data_len() != bytes.len() - end {
        let (last, all) = (end + header.data_len(), bytes.len());
        return Err(refuse(format!("goes on to byte {all} behind its last tensor, which ends at {last}")));
    }
    let entry = |info: &format::TensorInfo| Entry {
        file: 0,
        info: TensorInfo { shape: info.shape.clone(), dtype: dtype(info.dtype) },
        bytes: end + info.data_offsets.0..end + info.data_offsets.1,
    };
    Ok(header.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect())
}

/// What the header of a file with `room` bytes of tensors says of the tensor `name`.
fn one(name: &str, value: Value, room: usize) -> Result<format::TensorInfo, String> {
    let info: format::TensorInfo = serde_json::from_value(value)
        .map_err(|error| format!("has a header with a wrong entry for tensor `{name}`: {error}"))?;
    let (start, stop) = info.data_offsets;
    if stop > room {
        return Err(format!(
            "tensor `{name}` ends at byte {stop} behind the header, where the file has {room}: truncated; get the file \
             again"
        ));
    }
    // as if it were the only one
    let alone = format::TensorInfo { data_offsets: (0, stop.saturating_sub(start)), ..info.clone() };
    match Metadata::new(None, vec![(name.to_owned(), alone)]) {
        Ok(_) => Ok(info),
        Err(error) => Err(format!(
            "tensor `{name}` of shape {:?} and dtype {} cannot have the bytes from {start} to {stop}: {error}; get the \
             file again",
            info.shape, info.dtype
        )),
    }
}

fn dtype(of: format::Dtype) -> Dtype {
    match of {
        format::Dtype::F64 => Dtype::F64,
        format::Dtype::F32 => Dtype::F32,
        format::Dtype::F16 => Dtype::F16,
        format::Dtype::BF16 => Dtype::BF16,
        format::Dtype::I64 => Dtype::I64,
        other => Dtype::Other(other),
    }
}

impl TensorSource for Safetensors {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|entry| entry.info.clone())
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let (path, entry, bytes) = self.find(name)?;
        let dtype = entry.info.dtype;
        let wrong = || {
            CheckpointError::new(
                path,
                format!("tensor `{name}` has dtype {dtype}; weights are F64, F32, F16 or BF16, convert it"),
            )
        };
        floats(bytes, dtype).ok_or_else(wrong)
    }

    fn equal(&self, one: &str, other: &str) -> Result<bool, CheckpointError> {
        let ((_, one, ours), (_, other, theirs)) = (self.find(one)?, self.find(other)?);
        Ok(one.info == other.info && ours == theirs)
    }

    fn describe(&self) -> String {
        self.files.first().map(|(path, _)| path.display().to_string()).unwrap_or_default()
    }
}

/// A tensor to be written.
struct Floats<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for Floats<'_> {
    fn dtype(&self) -> format::Dtype {
        format::Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>().into()
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

/// Writes `f32` tensors (name, shape, values) so that a reader sees all of the file or nothing. The same tensors
/// give the same bytes.
///
/// # Errors
/// Where a tensor has other values than its shape says, or the file cannot be written.
pub fn write_safetensors(
    path: &Path,
    tensors: &[(String, Vec<usize>, Vec<f32>)],
) -> Result<(), CheckpointError> {
    let views = tensors.iter().map(|(name, shape, values)| (name, Floats { shape, values }));
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = serialize(views, Some(metadata))
        .map_err(|error| CheckpointError::new(path, format!("cannot be written: {error}")))?;
    let write = || {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let prefix = format!(".{stem}.partial-");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix);
        // as other programs make files: readable for whom the umask says, not for their owner alone
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(&bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error: std::io::Error| CheckpointError::new(path, format!("cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let tensors =
            [("b".to_owned(), vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]), ("a".to_owned(), vec![1], vec![-0.5])];
        write_safetensors(&path, &tensors).unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_written_is_read() {
        let (_dir, path) = sample();
        let file = Safetensors::open(&[path]).unwrap();
        assert_eq!(file.names(), ["a", "b"]);
        assert_eq!(file.info("b").unwrap().shape, [2, 2]);
        assert_eq!(file.read_f32("b").unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert!(file.read_f32("c").unwrap_err().to_string().contains("there is no tensor `c`"));
    }

    #[test]
    fn no_truncated_or_changed_file_is_believed_or_panics() {
        let (dir, path) = sample();
        let whole = std::fs::read(&path).unwrap();
        let cut = dir.path().join("cut.safetensors");
        for length in 0..whole.len() {
            std::fs::write(&cut, &whole[..length]).unwrap();
            assert!(Safetensors::open(std::slice::from_ref(&cut)).is_err(), "cut at {length}");
        }
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] ^= flip;
                std::fs::write(&cut, &changed).unwrap();
                if let Ok(file) = Safetensors::open(std::slice::from_ref(&cut)) {
                    for name in file.names() {
                        let _ = file.read_f32(&name);
                    }
                }
            }
        }
    }

    fn written(header: &str, data: usize) -> Result<Safetensors, CheckpointError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        std::fs::write(&path, bytes).unwrap();
        Safetensors::open(&[path])
    }

    #[test]
    fn tensors_fill_the_file_without_overlap() {
        let two = |first: [usize; 2], second: [usize; 2]| {
            let entry = |[start, stop]: [usize; 2]| {
                format!(
                    r#"{{"dtype":"F32","shape":[{}],"data_offsets":[{start},{stop}]}}"#,
                    (stop - start) / 4
                )
            };
            format!(r#"{{"a":{},"b":{}}}"#, entry(first), entry(second))
        };
        assert!(written(&two([0, 8], [8, 12]), 12).is_ok());
        for (header, size) in [
            (two([0, 8], [4, 12]), 12),
            (two([0, 4], [8, 12]), 12),
            (two([0, 8], [8, 12]), 16),
            (two([4, 8], [8, 12]), 12),
        ] {
            assert!(written(&header, size).is_err(), "{header}");
        }
    }

    #[test]
    fn a_wrong_entry_is_told_with_the_tensors_name() {
        let right = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        assert!(written(right, 8).is_ok());
        for (from, to) in [
            ("[2]", "[3]"),
            ("[2]", "[18446744073709551615]"),
            ("[2]", "[4294967296,4294967296,4294967296]"),
            ("[0,8]", "[8,0]"),
            ("[0,8]", "[0]"),
            ("F32", "F33"),
        ] {
            let error = written(&right.replace(from, to), 8).err().unwrap().to_string();
            assert!(error.contains("model.safetensors") && error.contains("tensor `w`"), "{to}: {error}");
        }
    }

    #[test]
    fn other_types_may_be_there_and_are_refused_when_they_are_asked_for() {
        let header = r#"{"f":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"i":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[8,10]}}"#;
        let file = written(header, 10).unwrap();
        assert_eq!(file.read_f32("f").unwrap(), [0.0]);
        assert!(file.read_f32("i").unwrap_err().to_string().contains("F8_E4M3"));
        assert!(written(&header.replace("F8_E4M3", "F9"), 10).err().unwrap().to_string().contains("F9"));
    }

    #[test]
    fn a_header_that_promises_too_much_is_named() {
        let (dir, _) = sample();
        let path = dir.path().join("lying.safetensors");
        let header = r#"{"w":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&[0; 16]);
        std::fs::write(&path, bytes).unwrap();
        let error = Safetensors::open(&[path]).err().unwrap().to_string();
        assert!(error.contains("tensor `w` ends at byte") && error.contains("truncated"), "{error}");
    }
}
