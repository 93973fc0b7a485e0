//! Whether a task's examples fit into the network, before anything runs.

use peftlab_peft::Outline;
use peftlab_tasks::{Example, TaskData, TaskSpec};

use crate::experiment::MethodSpec;

fn examples(data: &TaskData) -> impl Iterator<Item = &Example> {
    let splits = [Some(&data.train), Some(&data.validation), data.test.as_ref()];
    splits.into_iter().flatten().flat_map(|split| &split.examples)
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
