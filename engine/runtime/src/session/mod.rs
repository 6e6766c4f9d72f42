//! Sessions on disk: a sequence's cache as it lies on the device, its tokens, and what goes on with it, in one file.
//!
//! Any backend resumes what any other has saved: rows and blocks are the same bytes everywhere. A file tells its model and how its tokens are stored;
//! what does not fit, or is damaged, is refused whole, by the name of its section.

mod error;
mod file;

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::codec::Fingerprint;
use crate::engine::{Engine, LayerSnapshot};
use crate::error::Error;
use crate::kv::SequenceId;
use crate::sample::Sampler;
pub use error::SessionError;
use file::{Reader, Writer};

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    model: Fingerprint,
    policy: String,
    layout: Layout,
    tokens: u64,
    blocks: u32,
}

/// How tokens are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Layout {
    /// Tokens at the beginning that are never compressed.
    sinks: u32,
    /// A hash over the codecs of all layers: their shapes and parameters.
    codecs: String,
}

/// What goes on with a sequence besides its cache.
#[derive(Clone, Debug, Default)]
pub struct SessionState {
    /// How its next tokens are chosen.
    pub sampler: Option<Sampler>,
    /// What its owner wants to find again, such as a conversation's messages.
    pub note: Option<serde_json::Value>,
}

/// Saves a sequence to a file, in the place of what was there; returns the file's length in bytes.
///
/// # Errors
/// There is no such sequence, the device fails, or the file cannot be written. What was there before stays then.
pub fn save(
    path: &Path,
    engine: &Engine,
    sequence: SequenceId,
    state: &SessionState,
) -> Result<u64, SessionError> {
    let held = engine.sequence(sequence)?;
    let header = Header {
        model: engine.model().fingerprint()?,
        policy: engine.policy().into(),
        layout: layout(engine),
        tokens: held.tokens.len() as u64,
        blocks: held.blocks.len() as u32,
    };
    let mut writer = Writer::new(path)?;
    writer.add("tokens".into(), &words(&held.tokens))?;
    if let Some(sampler) = &state.sampler {
        writer.add("sampler".into(), &json(sampler)?)?;
    }
    if let Some(note) = &state.note {
        writer.add("note".into(), &json(note)?)?;
    }
    for layer in 0..engine.model().config().layers as usize {
        let LayerSnapshot { raw, blocks } = engine.save_layer(sequence, layer)?;
        writer.add(format!("rows of layer {layer}"), &raw)?;
        if !blocks.is_empty() {
            writer.add(format!("blocks of layer {layer}"), &blocks)?;
        }
    }
    writer.finish(&header)
}

/// Starts a sequence that goes on where a saved one was.
///
/// # Errors
/// The file cannot be read, is damaged or of something else, the cache is full, or the device fails. No sequence is left then.
pub fn load(path: &Path, engine: &mut Engine) -> Result<(SequenceId, SessionState), SessionError> {
    let (mut reader, header) = open(path, engine)?;
    let bytes = reader.needed("tokens")?;
    let tokens: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap_or_default()))
        .collect();
    if tokens.len() as u64 != header.tokens || bytes.len() % 4 != 0 {
        return Err(reader.damaged("tokens", "there are not as many as the directory says"));
    }
    let sampler = reader.section("sampler")?;
    let sampler = sampler
        .map(|bytes| serde_json::from_slice(&bytes))
        .transpose();
    let sampler = sampler.map_err(|error| reader.damaged("sampler", &error.to_string()))?;
    let note = reader.section("note")?;
    let note = note.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    let note = note.map_err(|error| reader.damaged("note", &error.to_string()))?;
    let sequence = engine.load_from(&tokens, header.blocks, |layer| {
        let blocks = reader.section(&format!("blocks of layer {layer}"))?;
        Ok::<_, SessionError>(LayerSnapshot {
            raw: reader.needed(&format!("rows of layer {layer}"))?,
            blocks: blocks.unwrap_or_default(),
        })
    })?;
    Ok((sequence, SessionState { sampler, note }))
}

/// Whether a file is whole and of an engine's model and policy.
///
/// # Errors
/// As [`load`], without its doing.
pub fn verify(path: &Path, engine: &Engine) -> Result<(), SessionError> {
    let (mut reader, _) = open(path, engine)?;
    reader.verify()
}

/// Opens a file that fits an engine.
fn open(path: &Path, engine: &Engine) -> Result<(Reader, Header), SessionError> {
    let (reader, header) = Reader::open::<Header>(path)?;
    let mismatch = |section, why| {
        Err(SessionError::Mismatch {
            path: path.to_owned(),
            section,
            why,
        })
    };
    let model = engine.model().fingerprint()?;
    if header.model != model {
        let why = format!("it is of {}, and the model is {model}", header.model);
        return mismatch("model", why);
    }
    let layout = layout(engine);
    if header.layout != layout {
        let (saved, policy) = (&header.policy, engine.policy());
        let what = match header.layout.sinks == layout.sinks {
            true => "their codecs are others",
            false => "as many tokens at the beginning stay uncompressed in neither",
        };
        let why =
            format!("it was saved under {saved}, and {policy} stores tokens otherwise: {what}");
        return mismatch("policy", why);
    }
    Ok((reader, header))
}

fn layout(engine: &Engine) -> Layout {
    let mut hash = Sha256::new();
    for layer in 0..engine.model().config().layers {
        match engine.codec(layer) {
            None => hash.update([0]),
            Some(codec) => {
                hash.update([1]);
                hash.update(format!("{} {:?}", codec.name(), codec.shape()));
                for parameter in codec.parameters() {
                    hash.update(parameter.name);
                    hash.update(&parameter.bytes);
                }
            }
        }
    }
    let digest = hash.finalize();
    Layout {
        sinks: engine.uncompressed_sinks(),
        codecs: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Parameter(error.to_string()))
}

fn words(tokens: &[u32]) -> Vec<u8> {
    tokens
        .iter()
        .flat_map(|token| token.to_le_bytes())
        .collect()
}
