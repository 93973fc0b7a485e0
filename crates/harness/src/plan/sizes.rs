//! Whether a task's examples fit into the network, before anything runs.

use std::sync::OnceLock;

use burn::tensor::DType;
use peftlab_peft::{DynMethod, Outline};
use peftlab_tasks::{Example, TaskData, TaskSpec};
use serde_json::Value;

use crate::device::OpenDevice;
use crate::experiment::MethodSpec;

fn examples(data: &TaskData) -> impl Iterator<Item = &Example> {
    let splits = [Some(&data.train), Some(&data.validation), data.test.as_ref()];
    splits.into_iter().flatten().flat_map(|split| &split.examples)
}

/// The weights of a network and the tensors of a method must find room in the machine, or its kernel ends other
/// programs. What training takes besides is not known beforehand. A GPU tells by itself; tensors of a method are made on
/// the host.
///
/// # Errors
/// Where there is no room; with what it takes.
pub(crate) fn check_memory(
    device: &OpenDevice,
    outline: &Outline,
    dtype: DType,
    method: &dyn DynMethod,
) -> Result<(), String> {
    static MEMORY: OnceLock<Option<u64>> = OnceLock::new();
    let read = || {
        let host = peftlab_meter::environment();
        host.memory_limit_bytes.or(host.memory_bytes)
    };
    let Some(there) = *MEMORY.get_or_init(read) else { return Ok(()) };
    let count = method.count(outline).map_err(|reason| reason.to_string())?;
    let base = if device.name == "cpu" { outline.total() * dtype.size() } else { 0 };
    let own = count.stored.max(count.adapter).saturating_add(count.buffers).saturating_mul(size_of::<f32>());
    let asked = base.saturating_add(own) as u64;
    match asked > there {
        false => Ok(()),
        true => Err(format!(
            "out of memory: the network's weights take {} MiB and the method's tensors {} MiB, and the machine has {} \
             MiB; take smaller sizes or a larger machine",
            base >> 20,
            own >> 20,
            there >> 20
        )),
    }
}

/// A segment id of a tokenizer's template must be one of those that the network knows.
///
/// # Errors
/// Where it is not; with the file that says otherwise.
pub(crate) fn check_segments(task: &TaskSpec, data: &TaskData, config: &Value) -> Result<(), String> {
    // a network with one segment reads no ids
    let Some(types) = config["type_vocab_size"].as_u64().filter(|types| *types > 1) else { return Ok(()) };
    let largest = examples(data).flat_map(|example| &example.token_type_ids).max().copied().unwrap_or(0);
    match u64::from(largest) < types {
        true => Ok(()),
        false => Err(format!(
            "task `{}`: the post_processor of tokenizer.json gives the segment {largest} (type_id), beyond the network's \
             type_vocab_size = {types}; name the network's own tokenizer in [model]",
            task.name
        )),
    }
}

/// The longest example, with the tokens that the method puts in front, must find room in the network. Where positions
/// are rotary there is always room, and a reader is told that the network was trained on less.
///
/// # Errors
/// Where there is no room; with the length that has.
pub(crate) fn check_length(
    task: &TaskSpec,
    data: &TaskData,
    method: &MethodSpec,
    outline: &Outline,
    table: u64,
) -> Result<Option<String>, String> {
    let longest = examples(data).map(|example| example.input_ids.len()).max().unwrap_or(0);
    let (virtual_tokens, room) = (method.method.virtual_tokens(), outline.dimensions.positions);
    if longest + virtual_tokens <= room {
        return Ok(None);
    }
    let with = match virtual_tokens {
        0 => String::new(),
        count => format!(", and `{}` puts {count} virtual ones before them", method.label),
    };
    if outline.rotary {
        return Ok(Some(format!(
            "texts have up to {longest} tokens{with}, and the network was trained on {room} (max_position_embeddings): \
             positions beyond are new to it"
        )));
    }
    Err(format!(
        "task `{}`: max_length = {} leaves texts of {longest} tokens{with}, but the network has room for {room} \
         (max_position_embeddings = {table}); set max_length = {}",
        task.name,
        task.max_length,
        room.saturating_sub(virtual_tokens)
    ))
}
