//! Running text: the next token of each.

use crate::counts::{Fate, TOO_LONG};
use crate::encode::{Encode, at, next_tokens};
use crate::read::File;
use crate::tokens::{end, tokens};
use crate::{Example, TaskError};

impl Encode<'_> {
    pub(crate) fn running_text(&mut self, files: &[File]) -> Result<Vec<Example>, TaskError> {
        let length = self.task.max_length;
        let mut examples = Vec::new();
        let mut stream: Vec<u32> = Vec::new();
        for file in files {
            for row in &file.rows {
                let text = self.text(file, row, &self.task.columns.text)?;
                let tokens = tokens(self.tokenizer, text, true);
                let mut ids = tokens.map_err(|message| self.failed(file, row, &message))?.ids;
                end(&mut ids, self.eos);
                self.keep(&[text]);
                if self.task.packing {
                    stream.extend(ids);
                    continue;
                }
                let fate = self.task.fate(ids.len() > length);
                match fate.map_err(|message| at(self.task, file, row, &message))? {
                    Fate::Dropped => self.counts.drop(TOO_LONG),
                    _ if ids.len() < 2 => self.counts.drop("one token alone predicts nothing"),
                    fate => {
                        self.counts.cut += u64::from(fate == Fate::Cut);
                        ids.truncate(length);
                        examples.push(next_tokens(&ids));
                    }
                }
            }
        }
        // the last block is what is left; one token alone predicts nothing
        let blocks = stream.chunks(length).filter(|block| block.len() > 1);
        examples.extend(blocks.map(next_tokens));
        self.counts.lost_tokens = u64::from(stream.len() % length == 1);
        Ok(examples)
    }
}
