//! From a model's name to an engine that runs it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use longwave_contract::Backend;
use longwave_runtime::Error;
use longwave_runtime::engine::{Engine, EngineOptions};
use longwave_runtime::hub::{self, LocalModel, ModelReference, ResolveOptions};
use longwave_runtime::model::{Model, ModelSource};

use crate::args::ModelArguments;
use crate::codecs::{Ground, Policies};
use crate::kv::{KvPolicy, Lanes};
use crate::output::Notes;
use crate::progress::{FetchProgress, byte_bar};

/// A model that is on this machine.
#[derive(Clone, Debug)]
pub struct Located {
    /// What the user called it.
    pub name: String,
    /// The file or directory.
    pub path: PathBuf,
}

/// A model whose files were opened and checked; no weights are loaded.
#[derive(Debug)]
pub struct Opened {
    /// What the user called it.
    pub name: String,
    /// The files.
    pub source: ModelSource,
}

/// Finds a model, fetching it where it is not on this machine.
///
/// # Errors
/// The name is no model's, or the model cannot be had.
pub fn locate(name: &str, offline: bool, notes: &Notes) -> Result<Located> {
    let reference = ModelReference::parse(name)?;
    let mut options = ResolveOptions::from_environment();
    options.offline |= offline;
    let mut progress = FetchProgress::new(notes);
    let local = hub::resolve(&reference, &options, &mut |event| progress.show(event))?;
    let (LocalModel::Gguf(path) | LocalModel::Directory(path)) = local;
    Ok(Located {
        name: name.to_owned(),
        path,
    })
}

/// Finds a model and opens its files.
///
/// # Errors
/// As [`locate`], and when the files are broken or of a kind that is not supported.
pub fn open(arguments: &ModelArguments, notes: &Notes) -> Result<Opened> {
    let Located { name, path } = locate(&arguments.model, arguments.offline, notes)?;
    let source = ModelSource::open(path)?;
    Ok(Opened { name, source })
}

impl Opened {
    /// Whether the model has all of these tokens: asked before its weights are loaded, which takes long.
    ///
    /// # Errors
    /// The first token that it does not have.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let vocabulary = self.source.config().vocabulary;
        match tokens
            .iter()
            .enumerate()
            .find(|(_, token)| **token >= vocabulary)
        {
            None => Ok(()),
            Some((position, &token)) => Err(Error::TokenBeyondVocabulary {
                token,
                position,
                vocabulary,
            }
            .into()),
        }
    }

    /// Loads the weights and makes an engine.
    ///
    /// # Errors
    /// The weights are broken or do not fit, or the device fails.
    pub fn engine(
        &self,
        backend: &Arc<dyn Backend>,
        kv: &KvPolicy,
        texts: &[PathBuf],
        mut options: EngineOptions,
        notes: &Notes,
    ) -> Result<Engine> {
        // A chunk beyond the context would only waste memory.
        options.chunk = options.chunk.min(options.context);
        kv.check(self.source.config().layers)?;
        options.cache_permille = kv.permille();
        options.restored_rows =
            kv.restored_rows(options.context, self.source.config(), backend.caps());
        let reach = kv.positions().min(self.source.config().context);
        let loaded = EngineOptions {
            context: options.context.max(reach),
            ..options.clone()
        };
        let rows = |lanes| kv.resident_rows(options.context, lanes);
        let (model, lanes) =
            loaded_with_room(&loaded, &rows, |loaded| self.load(backend, loaded, notes))?;
        options.resident_rows = rows(lanes);
        let policy =
            Policies::new(backend, &model, Ground::Texts(self, texts), notes).policy(kv)?;
        Engine::new(Arc::clone(backend), model, policy, options)
            .with_context(|| format!("the engine cannot be set up on {}", backend.caps().device))
    }

    /// Loads the weights; `options` say what they must leave room for.
    ///
    /// # Errors
    /// The weights are broken or do not fit, or the device fails.
    pub fn load(
        &self,
        backend: &Arc<dyn Backend>,
        options: &EngineOptions,
        notes: &Notes,
    ) -> Result<Arc<Model>> {
        let bar = byte_bar(notes, "loading");
        let model = Model::load(backend, &self.source, options, &mut |event| {
            bar.set_length(event.total);
            bar.set_position(event.done);
        });
        bar.finish_and_clear();
        Ok(Arc::new(model?))
    }
}

/// Loads with room for as many rows that stay restored as find it: of each sequence `rows` of them. Only what does not fit without any is refused.
///
/// # Errors
/// As `load`.
pub fn loaded_with_room<T>(
    loaded: &EngineOptions,
    rows: &dyn Fn(Lanes) -> u32,
    load: impl Fn(&EngineOptions) -> Result<T>,
) -> Result<(T, Lanes)> {
    let refused = |error: &anyhow::Error| {
        let cause = error.downcast_ref::<longwave_runtime::Error>();
        matches!(cause, Some(longwave_runtime::Error::DoesNotFit(_)))
    };
    let with = |lanes| {
        load(&EngineOptions {
            resident_rows: rows(lanes),
            ..loaded.clone()
        })
    };
    for lanes in [Lanes::Wide, Lanes::Narrow] {
        match with(lanes) {
            Err(error) if rows(lanes) > 0 && refused(&error) => {}
            done => return Ok((done?, lanes)),
        }
    }
    Ok((with(Lanes::Absent)?, Lanes::Absent))
}

#[cfg(test)]
mod tests {
    use longwave_runtime::DoesNotFit;

    use super::*;

    /// What is loaded where so many rows of a sequence find room.
    fn loaded(room: u32, wanted: [u32; 2]) -> Result<(u32, Lanes)> {
        let rows = |lanes| match lanes {
            Lanes::Wide => wanted[0],
            Lanes::Narrow => wanted[1],
            Lanes::Absent => 0,
        };
        let options = EngineOptions::single(8192);
        loaded_with_room(&options, &rows, |options| {
            if options.resident_rows < room {
                return Ok(options.resident_rows);
            }
            let why = DoesNotFit {
                model: "m".into(),
                device: "d".into(),
                weights: 1,
                cache: 1,
                tokens: 8192,
                work: 1,
                free: None,
            };
            Err(Error::from(Box::new(why)).into())
        })
    }

    #[test]
    fn as_many_rows_stay_as_find_room() -> Result<()> {
        let wanted = [4360, 2312];
        assert_eq!(loaded(5000, wanted)?, (4360, Lanes::Wide));
        assert_eq!(loaded(4000, wanted)?, (2312, Lanes::Narrow));
        assert_eq!(loaded(2000, wanted)?, (0, Lanes::Absent));
        // Where none are wanted, nothing is tried twice; where none would fit, that is what is said.
        assert_eq!(loaded(1, [0, 0])?.0, 0);
        assert!(loaded(0, wanted).is_err());
        Ok(())
    }
}
