//! Real models for the upper rungs.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use longwave_contract::Backend;
use longwave_runtime::engine::{Engine, EngineOptions};
use longwave_runtime::hub::{self, LocalModel, ModelReference, ResolveOptions};
use longwave_runtime::model::{Model, ModelSource};
use longwave_runtime::policy::{Dense, Policy};

/// A model of the tests.
#[derive(Clone, Copy, Debug)]
pub struct TestModel {
    /// Its alias.
    pub alias: &'static str,
    /// The stem of its golden file.
    pub golden: &'static str,
    /// Whether it is tested only when `LONGWAVE_TEST_ALL_MODELS` is set.
    pub on_demand: bool,
}

/// The models of the tests, smallest first.
pub const MODELS: [TestModel; 3] = [
    TestModel {
        alias: "smollm2:135m",
        golden: "smollm2-135m",
        on_demand: false,
    },
    TestModel {
        alias: "qwen2.5-coder:0.5b",
        golden: "qwen2.5-coder-0.5b",
        on_demand: false,
    },
    TestModel {
        alias: "qwen2.5-coder:1.5b",
        golden: "qwen2.5-coder-1.5b",
        on_demand: true,
    },
];

impl TestModel {
    /// The model's file, fetched where it is not in the cache; or why it is not tested.
    ///
    /// # Errors
    /// The reason to ignore the test: the model is on demand, or a checkout without a network has no copy.
    pub fn fetch(&self) -> Result<PathBuf, String> {
        if self.on_demand && std::env::var_os("LONGWAVE_TEST_ALL_MODELS").is_none() {
            return Err(format!(
                "{} is tested on demand: set LONGWAVE_TEST_ALL_MODELS=1",
                self.alias
            ));
        }
        if std::env::var_os("LONGWAVE_TEST_NO_MODELS").is_some() {
            return Err("LONGWAVE_TEST_NO_MODELS is set".into());
        }
        let fetch = || -> Result<PathBuf> {
            let reference = ModelReference::parse(self.alias)?;
            let local = hub::resolve(&reference, &ResolveOptions::default(), &mut |_| ())?;
            Ok(match local {
                LocalModel::Gguf(path) | LocalModel::Directory(path) => path,
            })
        };
        fetch().map_err(|error| format!("{}: {error:#}", self.alias))
    }
}

/// An engine over a model on a backend that attends densely.
///
/// # Errors
/// When the model cannot be loaded.
pub fn engine(
    backend: &Arc<dyn Backend>,
    path: &std::path::Path,
    options: EngineOptions,
) -> Result<Engine> {
    engine_with(backend, path, Arc::new(Dense), options)
}

/// The same with another policy.
///
/// # Errors
/// When the model cannot be loaded.
pub fn engine_with(
    backend: &Arc<dyn Backend>,
    path: &std::path::Path,
    policy: Arc<dyn Policy>,
    options: EngineOptions,
) -> Result<Engine> {
    let source = ModelSource::open(path).with_context(|| path.display().to_string())?;
    let model = Model::load(backend, &source, &options, &mut |_| ())?;
    Ok(Engine::new(
        Arc::clone(backend),
        Arc::new(model),
        policy,
        options,
    )?)
}
