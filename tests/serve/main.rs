//! Rung 4: the server, as its clients see it, with a small real model on the processor.

mod chaos;
mod clients;
mod interface;
mod rust_client;
mod server;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use longwave_tests::model::MODELS;
use longwave_tests::trial;

/// Runs a test that waits for things.
fn wait<F: Future<Output = Result<()>>>(test: impl FnOnce() -> F) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(test())
}

fn main() -> ExitCode {
    let model = MODELS[0].fetch();
    let mut trials = Vec::new();
    macro_rules! add {
        ($($title:literal => $test:path,)*) => {
            $(trials.push(trial::with($title, model.clone(), |model: PathBuf| wait(|| async move { $test(&model).await })));)*
        };
    }
    add! {
        "texts go on" => interface::completions,
        "conversations go on" => interface::chats,
        "schemas and functions" => interface::structure,
        "responses, vectors and figures" => interface::others,
        "what is wrong is refused by name" => interface::refusals,
        "two hundred requests at once" => chaos::crowd,
        "a full queue" => chaos::queue,
        "clients that go away or do not read" => chaos::clients,
        "bodies that are no requests" => chaos::bodies,
        "sessions, a kill and an end" => chaos::sessions,
        "async-openai" => rust_client::talks,
    }
    let both = model
        .clone()
        .and_then(|model| Ok((model, clients::python()?)));
    trials.push(trial::with(
        "the official client",
        both,
        |(model, python): (PathBuf, PathBuf)| {
            wait(|| async move { clients::official(&model, Path::new(&python)).await })
        },
    ));
    let both = model.and_then(|model| Ok((model, clients::browser()?)));
    trials.push(trial::with(
        "the page in a browser",
        both,
        |(model, browser): (PathBuf, &'static str)| {
            wait(|| async move { clients::page(&model, browser).await })
        },
    ));
    trial::run(trials)
}
