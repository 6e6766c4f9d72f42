//! The thread that owns the schedulers.
//!
//! Handlers send it commands and read replies; nothing else reaches a device. It sleeps while there is nothing to do. A client that has gone is
//! one whose channel is closed: its requests are cancelled before the next step.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use longwave_runtime::generate::FinishReason;
use longwave_runtime::schedule::{Event, Request, RequestId, Scheduler, SessionInfo, Stats, Usage};
use longwave_runtime::text::Tokenizer;
use tokio::sync::{mpsc, oneshot};

use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::text::{Piece, Speech, Spoken};

/// What becomes of a request.
#[derive(Debug)]
pub enum Reply {
    /// Text, with its tokens.
    Piece(Piece),
    /// The end.
    Done(Finish, Usage),
    /// A vector, and the end.
    Vector(Vec<f32>, Usage),
    /// It failed.
    Failed(ApiError),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// By itself, or before a stop string.
    Stop,
    /// As long as it may be.
    Length,
}

/// A reply, and which of a client's requests it is for.
pub type Replies = mpsc::UnboundedSender<(usize, Reply)>;

/// A request on its way to a scheduler.
pub struct Submission {
    /// Which of the offers.
    pub offer: usize,
    pub request: Request,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Which of the client's requests it is.
    pub index: usize,
    pub replies: Replies,
}

/// What may be done with sessions. Names are checked, files are whole paths.
#[derive(Debug)]
pub enum SessionCommand {
    List,
    Save(String, PathBuf),
    Restore(String, PathBuf),
    Fork(String, String),
    Forget(String),
}

/// What a session command gives.
#[derive(Debug)]
pub enum SessionReply {
    Sessions(Vec<SessionInfo>),
    /// Bytes of a file.
    Saved(u64),
    /// Tokens of a session.
    Tokens(usize),
    Forgotten,
}

type Asked<T> = oneshot::Sender<Result<T, ApiError>>;

enum Command {
    /// All of them, or none.
    Submit(Vec<Submission>, Asked<()>),
    Session(usize, SessionCommand, Asked<SessionReply>),
    Stats(Asked<Vec<Stats>>),
    /// Takes no more requests; answers when all that are there have ended, or the time is over.
    Drain(Duration, oneshot::Sender<Vec<SessionFile>>),
}

/// A session that was saved when the server ended.
#[derive(Debug)]
pub struct SessionFile {
    pub name: String,
    pub saved: Result<u64, String>,
}

/// What handlers talk to the worker through.
#[derive(Clone)]
pub struct Handle {
    commands: Sender<Command>,
    pub metrics: Arc<Metrics>,
}

/// How long the worker may take to answer what needs no step: a step and a save.
const PATIENCE: Duration = Duration::from_secs(60);

fn gone() -> ApiError {
    ApiError::unavailable("the server is ending")
}

impl Handle {
    async fn ask<T>(
        &self,
        command: impl FnOnce(Asked<T>) -> Command,
        patience: Duration,
    ) -> Result<T, ApiError> {
        let (sender, receiver) = oneshot::channel();
        self.commands.send(command(sender)).map_err(|_| gone())?;
        match tokio::time::timeout(patience, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(ApiError::unavailable(format!(
                "the device has not answered for {} s",
                patience.as_secs()
            ))),
        }
    }

    /// Hands requests to their schedulers: all of them, or none.
    pub async fn submit(&self, submissions: Vec<Submission>) -> Result<(), ApiError> {
        self.ask(|asked| Command::Submit(submissions, asked), PATIENCE)
            .await
    }

    /// Does something with sessions of an offer.
    pub async fn session(
        &self,
        offer: usize,
        command: SessionCommand,
    ) -> Result<SessionReply, ApiError> {
        let long = 10 * PATIENCE;
        self.ask(|asked| Command::Session(offer, command, asked), long)
            .await
    }

    /// How each offer stands; an error where the device is gone or does not answer.
    pub async fn stats(&self, patience: Duration) -> Result<Vec<Stats>, ApiError> {
        self.ask(Command::Stats, patience).await
    }

    /// Lets what is under way end, within a time; returns which sessions were saved.
    pub async fn drain(&self, time: Duration) -> Vec<SessionFile> {
        let (sender, receiver) = oneshot::channel();
        match self.commands.send(Command::Drain(time, sender)) {
            Ok(()) => receiver.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }
}

/// A request that is under way.
struct Live {
    index: usize,
    replies: Replies,
    speech: Speech,
    begun: Instant,
    /// When its last token came.
    last: Option<Instant>,
}

/// Everything that the thread owns.
struct Worker {
    schedulers: Vec<Scheduler>,
    tokenizer: Arc<Tokenizer>,
    metrics: Arc<Metrics>,
    live: HashMap<(usize, RequestId), Live>,
    /// Why no request can be served any more.
    broken: Option<String>,
    draining: Option<(Instant, oneshot::Sender<Vec<SessionFile>>)>,
    /// Where sessions go when the server ends.
    keep: Option<PathBuf>,
}

/// Starts the thread. `keep` is where all sessions are saved when it ends.
pub fn start(
    schedulers: Vec<Scheduler>,
    tokenizer: Arc<Tokenizer>,
    keep: Option<PathBuf>,
) -> std::io::Result<(Handle, JoinHandle<()>)> {
    let (sender, receiver) = channel();
    let metrics = Arc::new(Metrics::default());
    let handle = Handle {
        commands: sender,
        metrics: Arc::clone(&metrics),
    };
    let mut worker = Worker {
        schedulers,
        tokenizer,
        metrics,
        live: HashMap::new(),
        broken: None,
        draining: None,
        keep,
    };
    let thread = std::thread::Builder::new().name("engine".into());
    let thread = thread.spawn(move || worker.run(&receiver))?;
    Ok((handle, thread))
}

impl Worker {
    fn run(&mut self, commands: &Receiver<Command>) {
        loop {
            if !self.listen(commands) {
                return;
            }
            self.forget_the_gone();
            for offer in 0..self.schedulers.len() {
                if self.broken.is_none() && !self.schedulers[offer].is_idle() {
                    match self.schedulers[offer].step() {
                        Ok(events) => events.into_iter().for_each(|event| self.take(offer, event)),
                        Err(error) => self.fail(&error.to_string()),
                    }
                }
            }
            if self.is_drained() {
                self.end();
                return;
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.broken.is_some() || self.schedulers.iter().all(Scheduler::is_idle)
    }

    /// Takes the commands that are there, and waits for one where there is nothing else to do; `false` once nobody can send any.
    fn listen(&mut self, commands: &Receiver<Command>) -> bool {
        if self.is_idle() && !self.is_drained() {
            // Now and then it looks up, for clients that have gone.
            match commands.recv_timeout(Duration::from_secs(1)) {
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        loop {
            match commands.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(submissions, asked) => {
                let taken = self.submit(submissions);
                // Whoever does not wait any more has closed its channel too.
                let _ = asked.send(taken);
            }
            Command::Session(offer, command, asked) => {
                let _ = asked.send(self.session(offer, command));
            }
            Command::Stats(asked) => {
                let stats = match &self.broken {
                    Some(why) => Err(ApiError::unavailable(why.clone())),
                    None => Ok(self.schedulers.iter().map(Scheduler::stats).collect()),
                };
                let _ = asked.send(stats);
            }
            Command::Drain(time, done) => self.draining = Some((Instant::now() + time, done)),
        }
    }

    fn submit(&mut self, submissions: Vec<Submission>) -> Result<(), ApiError> {
        if let Some(why) = &self.broken {
            return Err(ApiError::unavailable(why.clone()));
        }
        if self.draining.is_some() {
            return Err(gone());
        }
        let mut taken = Vec::new();
        for submission in submissions {
            let offer = submission.offer;
            let Some(scheduler) = self.schedulers.get_mut(offer) else {
                return Err(ApiError::invalid("there is no such policy"));
            };
            match scheduler.submit(submission.request) {
                Ok(id) => {
                    taken.push((offer, id));
                    let live = Live {
                        index: submission.index,
                        replies: submission.replies,
                        speech: Speech::new(&self.tokenizer, &submission.stop),
                        begun: Instant::now(),
                        last: None,
                    };
                    self.live.insert((offer, id), live);
                }
                Err(refusal) => {
                    for (offer, id) in taken {
                        self.schedulers[offer].cancel(id);
                        self.live.remove(&(offer, id));
                    }
                    return Err(refusal.into());
                }
            }
        }
        Ok(())
    }

    fn session(&mut self, offer: usize, command: SessionCommand) -> Result<SessionReply, ApiError> {
        if let Some(why) = &self.broken {
            return Err(ApiError::unavailable(why.clone()));
        }
        let Some(scheduler) = self.schedulers.get_mut(offer) else {
            return Err(ApiError::invalid("there is no such policy"));
        };
        Ok(match command {
            SessionCommand::List => SessionReply::Sessions(scheduler.sessions()),
            SessionCommand::Save(name, path) => {
                SessionReply::Saved(scheduler.save_session(&name, &path)?)
            }
            SessionCommand::Restore(name, path) => {
                SessionReply::Tokens(scheduler.restore_session(&name, &path)?)
            }
            SessionCommand::Fork(name, other) => {
                SessionReply::Tokens(scheduler.fork_session(&name, &other)?)
            }
            SessionCommand::Forget(name) => {
                scheduler.forget_session(&name)?;
                SessionReply::Forgotten
            }
        })
    }

    /// Cancels what nobody waits for.
    fn forget_the_gone(&mut self) {
        let gone: Vec<(usize, RequestId)> = self
            .live
            .iter()
            .filter(|(_, live)| live.replies.is_closed())
            .map(|(key, _)| *key)
            .collect();
        for (offer, id) in gone {
            let usage = self.schedulers[offer].cancel(id);
            self.finish((offer, id), "cancelled", usage.unwrap_or_default());
        }
    }

    /// A request is over.
    fn finish(&mut self, key: (usize, RequestId), reason: &'static str, usage: Usage) {
        if let Some(live) = self.live.remove(&key) {
            self.metrics.ended(reason, live.begun.elapsed(), usage);
            let milliseconds = live.begun.elapsed().as_millis() as u64;
            tracing::info!(
                request = key.1.0,
                offer = key.0,
                reason,
                prompt_tokens = usage.prompt_tokens,
                cached_tokens = usage.cached_tokens,
                completion_tokens = usage.completion_tokens,
                kv_bytes = usage.kv_bytes,
                milliseconds,
                "request"
            );
        }
    }

    /// Passes on what a step made of a request.
    fn take(&mut self, offer: usize, event: Event) {
        match event {
            Event::Token {
                id,
                token,
                logprobs,
            } => {
                let key = (offer, id);
                let Some(live) = self.live.get_mut(&key) else {
                    return;
                };
                let now = Instant::now();
                match live.last.replace(now) {
                    None => self.metrics.first_token(now - live.begun),
                    Some(last) => self.metrics.next_token(now - last),
                }
                let index = live.index;
                match live.speech.push(Spoken { token, logprobs }) {
                    Ok((piece, stopped)) => {
                        if let Some(piece) = piece {
                            let _ = live.replies.send((index, Reply::Piece(piece)));
                        }
                        if stopped {
                            let usage = self.schedulers[offer].cancel(id).unwrap_or_default();
                            self.conclude(key, Finish::Stop, usage);
                        }
                    }
                    Err(error) => {
                        self.schedulers[offer].cancel(id);
                        self.reject(key, longwave_runtime::Error::from(error).into());
                    }
                }
            }
            Event::Finished { id, reason, usage } => {
                let finish = match reason {
                    FinishReason::EndOfSequence | FinishReason::StopString => Finish::Stop,
                    FinishReason::MaxTokens | FinishReason::Context => Finish::Length,
                };
                self.conclude((offer, id), finish, usage);
            }
            Event::Embedding { id, values, usage } => {
                if let Some(live) = self.live.get(&(offer, id)) {
                    let reply = (live.index, Reply::Vector(values, usage));
                    let _ = live.replies.send(reply);
                }
                self.finish((offer, id), "embedding", usage);
            }
            Event::Failed { id, error } => self.reject((offer, id), error.into()),
        }
    }

    /// Ends an answer, with what was held back.
    fn conclude(&mut self, key: (usize, RequestId), finish: Finish, usage: Usage) {
        if let Some(live) = self.live.get_mut(&key) {
            let index = live.index;
            if let Ok(Some(piece)) = live.speech.finish() {
                let _ = live.replies.send((index, Reply::Piece(piece)));
            }
            let _ = live.replies.send((index, Reply::Done(finish, usage)));
        }
        let reason = match finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
        };
        self.finish(key, reason, usage);
    }

    fn reject(&mut self, key: (usize, RequestId), error: ApiError) {
        tracing::warn!(request = key.1.0, error = error.message, "a request failed");
        if let Some(live) = self.live.get(&key) {
            let _ = live.replies.send((live.index, Reply::Failed(error)));
        }
        self.finish(key, "error", Usage::default());
    }

    /// Nothing can be served any more.
    fn fail(&mut self, why: &str) {
        tracing::error!(
            error = why,
            "the device failed: no request can be served any more"
        );
        self.broken = Some(why.to_owned());
        let keys: Vec<(usize, RequestId)> = self.live.keys().copied().collect();
        for key in keys {
            self.reject(key, ApiError::unavailable(why));
        }
    }

    fn is_drained(&self) -> bool {
        let Some((until, _)) = &self.draining else {
            return false;
        };
        self.live.is_empty() || self.is_idle() || Instant::now() >= *until
    }

    /// Cuts off what is left, and saves what is to be kept.
    fn end(&mut self) {
        let keys: Vec<(usize, RequestId)> = self.live.keys().copied().collect();
        for (offer, id) in keys {
            self.schedulers[offer].cancel(id);
            self.reject((offer, id), gone());
        }
        let mut files = Vec::new();
        if let (Some(folder), None) = (&self.keep, &self.broken) {
            for (offer, scheduler) in self.schedulers.iter().enumerate() {
                for session in scheduler.sessions() {
                    let path = session_path(folder, offer, &session.name);
                    let saved = scheduler.save_session(&session.name, &path);
                    files.push(SessionFile {
                        name: session.name,
                        saved: saved.map_err(|error| error.to_string()),
                    });
                }
            }
        }
        if let Some((_, done)) = self.draining.take() {
            let _ = done.send(files);
        }
    }
}

/// Where a session of an offer is saved.
pub fn session_path(folder: &std::path::Path, offer: usize, name: &str) -> PathBuf {
    match offer {
        0 => folder.join(format!("{name}.session")),
        _ => folder.join(format!("{name}.{offer}.session")),
    }
}
