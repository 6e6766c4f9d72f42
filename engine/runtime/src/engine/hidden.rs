//! What a model makes of a text, as one vector.

use super::{Engine, Feed, Wants};
use crate::error::Error;
use crate::schedule::Pooling;

impl Engine {
    /// The hidden states of a text's tokens after the last norm, their mean or the last one, `f32[width]`. Nothing of it stays in the cache.
    ///
    /// # Errors
    /// There are no tokens or too many, one is beyond the vocabulary, the cache is full, or the device fails.
    pub fn hidden(&mut self, tokens: &[u32], pooling: Pooling) -> Result<Vec<f32>, Error> {
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.check_tokens(0, tokens)?;
        let norm = self.model.output_norm()?;
        let id = self.start();
        let made = self.states(id, tokens, pooling, &norm);
        self.end(id);
        made
    }

    fn states(
        &mut self,
        id: crate::kv::SequenceId,
        tokens: &[u32],
        pooling: Pooling,
        norm: &[f32],
    ) -> Result<Vec<f32>, Error> {
        let mut sum = vec![0.0f64; norm.len()];
        if self.compresses() {
            self.prefill_layers(id, tokens, Wants::Nothing, &mut |_| {}, None)?;
            let chunk = (tokens.len() as u32).min(self.options.chunk);
            let single = tokens.len() <= chunk as usize;
            let hidden = self.layered.as_ref().map(|layered| layered.hidden());
            if let (false, Some(hidden)) = (single, hidden) {
                for (index, part) in tokens.chunks(chunk as usize).enumerate() {
                    let at = index as u64 * u64::from(chunk) * hidden.row_bytes();
                    let place = (hidden.buffer, hidden.offset + at);
                    self.add_states(place, part.len(), pooling, norm, &mut sum)?;
                }
            } else {
                self.add_stream(tokens.len(), pooling, norm, &mut sum)?;
            }
        } else {
            for part in tokens.chunks(self.options.chunk as usize) {
                let feed = Feed {
                    sequence: id,
                    tokens: part,
                    wants: Wants::Nothing,
                };
                self.check(&[feed])?;
                self.advance(&[feed], &[false], true)?;
                self.add_stream(part.len(), pooling, norm, &mut sum)?;
            }
        }
        let count = match pooling {
            Pooling::Mean => tokens.len() as f64,
            Pooling::Last => 1.0,
        };
        Ok(sum.iter().map(|sum| (sum / count) as f32).collect())
    }

    /// Adds the states of the chunk that ran last.
    fn add_stream(
        &self,
        rows: usize,
        pooling: Pooling,
        norm: &[f32],
        sum: &mut [f64],
    ) -> Result<(), Error> {
        let x = self.activations.tensor(0, rows as u32, norm.len() as u32);
        self.add_states((x.buffer, x.offset), rows, pooling, norm, sum)
    }

    /// Adds the states of rows of the residual stream; of the last token only its own.
    fn add_states(
        &self,
        (buffer, offset): (longwave_contract::BufferId, u64),
        rows: usize,
        pooling: Pooling,
        norm: &[f32],
        sum: &mut [f64],
    ) -> Result<(), Error> {
        let epsilon = f64::from(self.model.config().epsilon);
        let width = norm.len();
        let mut stream = vec![0.0f32; rows * width];
        self.backend
            .read(buffer, offset, bytemuck::cast_slice_mut(&mut stream))?;
        if pooling == Pooling::Last {
            // Of the last chunk, what was added last stays.
            sum.fill(0.0);
            stream.drain(..(rows - 1) * width);
        }
        for row in stream.chunks_exact(width) {
            let squares: f64 = row.iter().map(|&value| f64::from(value).powi(2)).sum();
            let scale = 1.0 / (squares / width as f64 + epsilon).sqrt();
            for ((sum, &value), &norm) in sum.iter_mut().zip(row).zip(norm) {
                *sum += f64::from(value) * scale * f64::from(norm);
            }
        }
        Ok(())
    }
}
