//! A device that fails when it is told to: what requests get then, and that nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use anyhow::{Result, ensure};
use longwave_contract::{
    Backend, BackendError, BufferDesc, BufferId, Caps, PlanId, Recording, Ticket,
};
use longwave_runtime::engine::{Engine, EngineOptions};
use longwave_runtime::model::ModelSource;
use longwave_runtime::policy::{DeltaKv, Dense, Policy};
use longwave_runtime::sample::SamplingParams;
use longwave_runtime::schedule::{Event, Scheduler, SchedulerOptions};
use longwave_server::{Offer, Server, ServerConfig, Subject};

use super::compress::{BUDGET, identity, load, tokens};
use super::directory::Spec;
use super::schedule::request;

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A plan finds no memory, once.
    OutOfMemory,
    /// The device is gone, and stays so.
    Lost,
}

/// A backend whose run with this number fails.
struct Broken {
    inner: Arc<dyn Backend>,
    fault: Fault,
    /// Runs until then.
    left: AtomicI64,
    failures: AtomicU32,
}

impl Broken {
    fn check(&self) -> Result<(), BackendError> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        let fails = match self.fault {
            Fault::OutOfMemory => left == 0,
            Fault::Lost => left <= 0,
        };
        if !fails {
            return Ok(());
        }
        self.failures.fetch_add(1, Ordering::SeqCst);
        let backend = self.inner.caps().backend;
        Err(match self.fault {
            Fault::OutOfMemory => BackendError::OutOfMemory {
                backend,
                label: "a plan".into(),
                bytes: 1 << 30,
            },
            Fault::Lost => BackendError::DeviceLost {
                backend,
                why: "it was unplugged".into(),
            },
        })
    }
}

impl Backend for Broken {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn allocated(&self) -> u64 {
        self.inner.allocated()
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId, BackendError> {
        self.inner.alloc(desc)
    }

    fn free(&self, buffer: BufferId) {
        self.inner.free(buffer);
    }

    fn write(&self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.inner.write(buffer, offset, bytes)
    }

    fn read(&self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.inner.read(buffer, offset, bytes)
    }

    fn copy(
        &self,
        from: (BufferId, u64),
        to: (BufferId, u64),
        bytes: u64,
    ) -> Result<(), BackendError> {
        self.inner.copy(from, to, bytes)
    }

    fn prepare(&self, recording: &Recording) -> Result<PlanId, BackendError> {
        self.inner.prepare(recording)
    }

    fn kernels(&self, plan: PlanId) -> Vec<String> {
        self.inner.kernels(plan)
    }

    fn release(&self, plan: PlanId) {
        self.inner.release(plan);
    }

    fn run(&self, plan: PlanId) -> Result<Ticket, BackendError> {
        self.check()?;
        self.inner.run(plan)
    }

    fn wait(&self, ticket: Ticket) -> Result<(), BackendError> {
        self.inner.wait(ticket)
    }
}

/// Over HTTP: what was under way gets 503 and the reason, and so does whoever comes later, and whoever asks for the server's health.
pub fn served(backend: &Arc<dyn Backend>) -> Result<()> {
    let (directory, model) = load(backend, &Spec::default())?;
    let source = ModelSource::open(directory.path())?;
    let broken = Arc::new(Broken {
        inner: Arc::clone(backend),
        fault: Fault::Lost,
        left: AtomicI64::new(20),
        failures: AtomicU32::new(0),
    });
    let options = EngineOptions {
        chunk: 48,
        sequences: 3,
        cache_tokens: 1024,
        ..EngineOptions::single(512)
    };
    let as_backend: Arc<dyn Backend> = Arc::clone(&broken) as _;
    let engine = Engine::new(as_backend, model, Arc::new(Dense), options)?;
    let offer = Offer {
        policy: "dense".into(),
        label: "dense".into(),
        keep: None,
        share: 1.0,
        scheduler: Scheduler::new(engine, SchedulerOptions::default()),
    };
    let subject = Subject {
        name: "small".into(),
        tokenizer: Arc::new(source.tokenizer()?),
        template: None,
        sampling: SamplingParams::greedy(),
    };
    let config = ServerConfig {
        port: 0,
        ..ServerConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let server = Server::bind(config, subject, vec![offer]).await?;
        let url = format!("http://{}", server.address()?);
        let (end, ends) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async {
            // Either way it is time to end.
            let _ = ends.await;
        }));
        let client = reqwest::Client::new();
        let health = client.get(format!("{url}/health")).send().await?;
        ensure!(health.status() == 200);
        let ask = |tokens: Vec<u32>| {
            let body = serde_json::json!({"prompt": tokens, "max_tokens": 60, "ignore_eos": true});
            client
                .post(format!("{url}/v1/completions"))
                .body(body.to_string())
                .send()
        };
        let both = tokio::join!(ask(vec![5; 30]), ask(vec![6; 20]));
        for response in [both.0?, both.1?, ask(vec![7]).await?] {
            ensure!(response.status() == 503, "{}", response.status());
            ensure!(response.headers().contains_key("retry-after"));
            let text = response.text().await?;
            ensure!(text.contains("unplugged"), "{text}");
        }
        let health = client.get(format!("{url}/health")).send().await?;
        ensure!(health.status() == 503, "{}", health.status());
        end.send(()).ok();
        running.await?;
        Ok(())
    })
}

/// Whenever it comes: without memory, all requests but one at most are answered; a device that is lost is an error of the step. Pages are neither
/// lost nor held twice.
pub fn requests(backend: &Arc<dyn Backend>) -> Result<()> {
    let spec = Spec {
        layers: 2,
        ..Spec::default()
    };
    let (_directory, model) = load(backend, &spec)?;
    let all = tokens(400);
    for fault in [Fault::OutOfMemory, Fault::Lost] {
        for (compresses, after) in [false, true].into_iter().flat_map(|compresses| {
            [0, 1, 4, 9, 20]
                .into_iter()
                .map(move |after| (compresses, after))
        }) {
            let broken = Arc::new(Broken {
                inner: Arc::clone(backend),
                fault,
                left: AtomicI64::new(after),
                failures: AtomicU32::new(0),
            });
            let policy: Arc<dyn Policy> = match compresses {
                true => Arc::new(DeltaKv::stored("identity", BUDGET, identity(&model, None))),
                false => Arc::new(Dense),
            };
            let options = EngineOptions {
                chunk: 48,
                sequences: 3,
                cache_tokens: 1024,
                ..EngineOptions::single(512)
            };
            let as_backend: Arc<dyn Backend> = Arc::clone(&broken) as _;
            let engine = Engine::new(as_backend, Arc::clone(&model), policy, options)?;
            let mut scheduler = Scheduler::new(engine, SchedulerOptions::default());
            for (from, length) in [(0, 200), (3, 20), (7, 100)] {
                scheduler.submit(request(&all[from..from + length], 20, None))?;
            }
            let what = format!("{fault:?} after {after}, compresses {compresses}");
            let (mut finished, mut failed, mut lost) = (0, 0, false);
            while !scheduler.is_idle() && !lost {
                match scheduler.step() {
                    Ok(events) => {
                        let ends = |event: &&Event| matches!(event, Event::Finished { .. });
                        finished += events.iter().filter(ends).count();
                        let fails = |event: &&Event| matches!(event, Event::Failed { .. });
                        failed += events.iter().filter(fails).count();
                    }
                    Err(error) => {
                        ensure!(fault == Fault::Lost, "{what}: {error}");
                        ensure!(error.to_string().contains("unplugged"), "{what}: {error}");
                        lost = true;
                    }
                }
            }
            ensure!(
                broken.failures.load(Ordering::SeqCst) > 0,
                "{what}: nothing failed"
            );
            ensure!(
                scheduler.engine().is_sound(),
                "{what}: pages are lost or held twice"
            );
            match fault {
                Fault::Lost => ensure!(lost, "{what}: nobody was told"),
                Fault::OutOfMemory => {
                    ensure!(
                        finished + failed == 3 && failed <= 1,
                        "{what}: {finished} finished, {failed} failed"
                    );
                    let stats = scheduler.stats();
                    ensure!(
                        stats.kv_bytes_used == stats.kv_bytes_reusable && stats.tokens_held == 0,
                        "{what}: something is still held: {stats:?}"
                    );
                }
            }
        }
    }
    Ok(())
}
