//! Listening, and ending without losing what is under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use crate::api::{self, Shared};
use crate::config::{Offer, ServerConfig, Subject};
use crate::error::ServerError;
use crate::worker::{self, Handle};

/// How long a client may take to send a request's headers.
const HEADERS: Duration = Duration::from_secs(30);

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    router: axum::Router,
    handle: Handle,
    worker: JoinHandle<()>,
    drain: Duration,
}

impl Server {
    /// Binds the address, and starts the thread that works on requests.
    ///
    /// # Errors
    /// A setting is of no use, or the address is taken.
    pub async fn bind(
        config: ServerConfig,
        subject: Subject,
        offers: Vec<Offer>,
    ) -> Result<Self, ServerError> {
        if offers.is_empty() {
            return Err(ServerError::Setting(
                "there is nothing to serve with".into(),
            ));
        }
        if config.save_on_exit && config.session_dir.is_none() {
            let why = "sessions can only be saved at the end where there is a folder for them";
            return Err(ServerError::Setting(why.into()));
        }
        let address = format!("{}:{}", config.host, config.port);
        let listen = |source| ServerError::Listen {
            address: address.clone(),
            source,
        };
        let listener = TcpListener::bind(&address).await.map_err(listen)?;
        let keep = config.session_dir.clone().filter(|_| config.save_on_exit);
        let (offers, schedulers): (Vec<api::OfferInfo>, Vec<_>) =
            offers.into_iter().map(api::OfferInfo::of).unzip();
        let tokenizer = Arc::clone(&subject.tokenizer);
        let (handle, worker) = worker::start(schedulers, tokenizer, keep).map_err(listen)?;
        let drain = config.drain;
        let shared = Shared::new(config, subject, offers, handle.clone())?;
        Ok(Server {
            listener,
            router: api::router(Arc::new(shared)),
            handle,
            worker,
            drain,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `ends`; then takes no more requests, and lets those that are under way end.
    pub async fn run(self, ends: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let mut ends = std::pin::pin!(ends);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = &mut ends => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Such as too many open files: it passes.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let service = TowerToHyperService::new(self.router.clone());
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .serve_connection(TokioIo::new(stream), service);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                // Clients come and go.
                let _ = connection.await;
            });
        }
        drop(self.listener);
        tracing::info!(
            seconds = self.drain.as_secs(),
            "ending: requests under way go on"
        );
        for file in self.handle.drain(self.drain).await {
            match file.saved {
                Ok(bytes) => tracing::info!(session = file.name, bytes, "saved"),
                Err(error) => tracing::error!(session = file.name, error, "not saved"),
            }
        }
        // What was just ended is still being sent.
        let _ = tokio::time::timeout(Duration::from_secs(5), graceful.shutdown()).await;
        drop(self.handle);
        let ended = tokio::task::spawn_blocking(move || self.worker.join()).await;
        if !matches!(ended, Ok(Ok(()))) {
            tracing::error!("the engine's thread broke");
        }
    }
}
