//! `longwave serve`: requests over HTTP.

mod settings;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use longwave_contract::kv::PAGE;
use longwave_runtime::Error;
use longwave_runtime::engine::{Engine, EngineOptions};
use longwave_runtime::schedule::{Scheduler, SchedulerOptions};
use longwave_server::{Offer, Server, ServerConfig, Subject};
use tracing_subscriber::EnvFilter;

use crate::args::{DeviceArguments, ModelArguments, SamplingArguments};
use crate::backend::Choice;
use crate::codecs::{Ground, Policies};
use crate::kv::KvPolicy;
use crate::model::{self, loaded_with_room};
use crate::output::Notes;
use settings::{LogFormat, Settings};

/// Serve a model over HTTP, by OpenAI's interface.
///
/// Settings come from the command line, or else from the environment (LONGWAVE_PORT and the like), or else from a TOML file with the same names.
/// A page to talk with the model is at /, the interface is described at /docs. SIGTERM lets requests under way end.
#[derive(Args, Debug)]
pub struct ServeArguments {
    /// A file with settings, by the names of the flags
    #[arg(long, value_name = "FILE", env = "LONGWAVE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Use models that are on this machine only
    #[arg(long)]
    pub offline: bool,
    /// The settings
    #[command(flatten)]
    settings: Settings,
}

/// Tokens of a request, where nothing else is asked for.
const CONTEXT: u32 = 8192;

/// Tokens of all requests, where nothing else is asked for.
const CACHE: u32 = 65_536;

impl ServeArguments {
    /// Does it, until the process is told to end.
    ///
    /// # Errors
    /// A setting is of no use, the model or the device cannot be used, or the address is taken.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        let file = self.config.as_deref().map(Settings::read).transpose()?;
        let settings = self.settings.clone().over(file.unwrap_or_default());
        log(&settings)?;
        if let Some(folder) = &settings.session_dir {
            ensure!(
                folder.is_dir(),
                "--session-dir: {} is no folder",
                folder.display()
            );
        }
        let choice = Choice::by(&DeviceArguments {
            backend: settings.backend.unwrap_or_default(),
            device: settings.device.clone(),
        })?;
        let name = settings
            .model
            .clone()
            .unwrap_or_else(|| "smollm2:135m".into());
        let arguments = ModelArguments {
            model: name.clone(),
            offline: self.offline,
        };
        let opened = model::open(&arguments, notes)?;
        let config = opened.source.config().clone();
        let context = settings.context.unwrap_or(CONTEXT.min(config.context));
        ensure!(
            context <= config.context,
            "--context {context} is beyond the model's context of {} tokens",
            config.context
        );
        let kvs = match settings.kv.is_empty() {
            true => vec![KvPolicy::default()],
            false => settings.kv.clone(),
        };
        for kv in &kvs {
            kv.check(config.layers)?;
        }
        let backend = choice.open(notes)?;
        let sequences = settings.sequences.unwrap_or(32);
        let chunk = settings
            .chunk
            .unwrap_or_else(|| EngineOptions::chunk_for(backend.caps(), &config));
        let count = kvs.len() as u32;
        let mean = |of: &dyn Fn(&KvPolicy) -> u32| kvs.iter().map(of).sum::<u32>().div_ceil(count);
        let reach = kvs.iter().map(KvPolicy::positions).max().unwrap_or(0);
        let cache = settings
            .cache_tokens
            .unwrap_or_else(|| CACHE.max(context).min(context.saturating_mul(sequences)));
        let mut options = EngineOptions {
            context,
            cache_tokens: cache,
            // A chunk beyond the context would only waste memory; one for each sequence there must be.
            chunk: chunk.min(context).max(sequences),
            sequences,
            engines: count,
            cache_permille: mean(&KvPolicy::permille),
            resident_rows: 0,
            restored_rows: mean(&|kv| kv.restored_rows(context, &config, backend.caps())),
            overlap: None,
        };
        let reached = context.max(reach.min(config.context));
        let load = |options: &EngineOptions| {
            let loaded = EngineOptions {
                context: reached,
                ..options.clone()
            };
            let rows = |lanes| mean(&|kv| kv.resident_rows(context, lanes));
            loaded_with_room(&loaded, &rows, |loaded| {
                opened.load(&backend, loaded, notes)
            })
        };
        let (model, lanes) = match load(&options) {
            Err(error) if settings.cache_tokens.is_none() => {
                // As many tokens as fit, as long as one request does.
                let fitting = match error.downcast_ref::<Error>() {
                    Some(Error::DoesNotFit(why)) => why.fitting().unwrap_or(0),
                    _ => 0,
                };
                let each = u32::try_from(fitting / u64::from(count)).unwrap_or(u32::MAX);
                let each = each.min(cache - 1) / PAGE * PAGE;
                if each < context {
                    return Err(error);
                }
                options.cache_tokens = each;
                load(&options)?
            }
            loaded => loaded?,
        };
        let mut policies = Policies::new(
            &backend,
            &model,
            Ground::Texts(&opened, &settings.text),
            notes,
        );
        let mut offers = Vec::new();
        for kv in &kvs {
            let options = EngineOptions {
                cache_permille: kv.permille(),
                resident_rows: kv.resident_rows(context, lanes),
                restored_rows: kv.restored_rows(context, &config, backend.caps()),
                ..options.clone()
            };
            let policy = policies.policy(kv)?;
            let name = policy.name().to_owned();
            let engine = Engine::new(Arc::clone(&backend), Arc::clone(&model), policy, options);
            let engine = engine.with_context(|| format!("the engine of {kv} cannot be set up"))?;
            offers.push(Offer {
                policy: name,
                label: kv.to_string(),
                keep: kv.keep(),
                share: f64::from(kv.permille()) / 1000.0,
                scheduler: Scheduler::new(
                    engine,
                    SchedulerOptions {
                        queue: settings.queue.unwrap_or(256) as usize,
                        prompt_tokens: 2048,
                        stall_ms: settings.stall_ms.unwrap_or(100),
                        prefix_cache: !settings.no_prefix_cache,
                    },
                ),
            });
        }
        let subject = Subject {
            name: settings.model_name.clone().unwrap_or(name),
            template: opened.source.chat_template()?,
            tokenizer: Arc::new(opened.source.tokenizer()?),
            sampling: SamplingArguments::default().over(opened.source.sampling_defaults(), 0)?,
        };
        let tokens = options.cache_tokens;
        notes.note(format_args!(
            "{}: up to {sequences} requests at a time, {context} tokens each, {tokens} together with each of {}",
            subject.name,
            kvs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let server = Server::bind(server_config(&settings), subject, offers).await?;
            // Programs that start a server read this line.
            notes.note(format_args!("listening on http://{}", server.address()?));
            server.run(told_to_end()).await;
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn server_config(settings: &Settings) -> ServerConfig {
    let default = ServerConfig::default();
    let seconds = |given: Option<u64>, default| given.map_or(default, Duration::from_secs);
    ServerConfig {
        host: settings.host.clone().unwrap_or(default.host),
        port: settings.port.unwrap_or(default.port),
        api_key: settings.api_key.clone(),
        cors: settings.cors.clone(),
        body_bytes: settings.body_bytes.map_or(default.body_bytes, |bytes| {
            usize::try_from(bytes).unwrap_or(usize::MAX)
        }),
        timeout: seconds(settings.timeout, default.timeout),
        drain: seconds(settings.drain, default.drain),
        session_dir: settings.session_dir.clone(),
        save_on_exit: settings.save_on_exit,
        log_prompts: settings.log_prompts,
    }
}

/// Logs to standard error.
fn log(settings: &Settings) -> Result<()> {
    let level = settings.log_level.as_deref().unwrap_or("info");
    let filter = EnvFilter::try_new(level).with_context(|| format!("--log-level {level}"))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let made = match settings.log_format {
        Some(LogFormat::Json) => logs.json().try_init(),
        _ => logs.with_ansi(false).try_init(),
    };
    made.map_err(anyhow::Error::from_boxed)
}

/// Until the process is told to end.
async fn told_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
            }
            Err(_) => {
                let _ = tokio::signal::ctrl_c().await;
            }
        }
    }
    #[cfg(not(unix))]
    {
        let _ = tokio::signal::ctrl_c().await;
    }
}
