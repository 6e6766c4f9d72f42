//! Requests and their replies: all at once, or as they come.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use longwave_runtime::schedule::{Request, Usage};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{OfferInfo, Shared};
use crate::error::ApiError;
use crate::text::Spoken;
use crate::worker::{Finish, Reply, Submission};

/// What a client's requests give.
pub struct Replies {
    receiver: mpsc::UnboundedReceiver<(usize, Reply)>,
    /// When they must have ended.
    until: Instant,
    timeout: Duration,
    /// How many have not ended.
    left: usize,
}

impl Replies {
    /// Hands requests to the worker.
    pub async fn of(
        shared: &Shared,
        offer: usize,
        requests: Vec<Request>,
        stop: Vec<String>,
    ) -> Result<Self, ApiError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let timeout = shared.config.timeout;
        let until = Instant::now() + timeout;
        let left = requests.len();
        let submissions = requests
            .into_iter()
            .enumerate()
            .map(|(index, request)| Submission {
                offer,
                request,
                stop: stop.clone(),
                index,
                replies: sender.clone(),
            });
        shared.handle.submit(submissions.collect()).await?;
        Ok(Replies {
            receiver,
            until,
            timeout,
            left,
        })
    }

    /// The next reply; `None` once all requests have ended.
    pub async fn next(&mut self) -> Option<(usize, Reply)> {
        if self.left == 0 {
            return None;
        }
        let reply = match tokio::time::timeout_at(self.until, self.receiver.recv()).await {
            Ok(Some(reply)) => reply,
            Ok(None) => (
                0,
                Reply::Failed(ApiError::unavailable("the server is ending")),
            ),
            Err(_) => {
                let why = format!("the request took longer than {} s", self.timeout.as_secs());
                let status = axum::http::StatusCode::GATEWAY_TIMEOUT;
                (0, Reply::Failed(ApiError::new(status, why)))
            }
        };
        match reply.1 {
            // Nothing that follows would be read.
            Reply::Failed(_) => self.left = 0,
            Reply::Done(..) | Reply::Vector(..) => self.left -= 1,
            Reply::Piece(_) => {}
        }
        Some(reply)
    }
}

/// One whole answer.
#[derive(Debug, Default)]
pub struct Answer {
    pub text: String,
    pub tokens: Vec<Spoken>,
    pub finish: Option<Finish>,
    pub usage: Usage,
}

/// All answers, once they have ended.
pub async fn collect(mut replies: Replies, count: usize) -> Result<Vec<Answer>, ApiError> {
    let mut answers: Vec<Answer> = (0..count).map(|_| Answer::default()).collect();
    while let Some((index, reply)) = replies.next().await {
        let Some(answer) = answers.get_mut(index) else {
            continue;
        };
        match reply {
            Reply::Piece(piece) => {
                answer.text.push_str(&piece.text);
                answer.tokens.extend(piece.tokens);
            }
            Reply::Done(finish, usage) => {
                answer.finish = Some(finish);
                answer.usage = usage;
            }
            Reply::Vector(..) => {}
            Reply::Failed(error) => return Err(error),
        }
    }
    Ok(answers)
}

/// What all of a client's requests took: the prompt once.
pub fn usage(usages: &[Usage], offer: &OfferInfo) -> Value {
    let prompt = usages.first().copied().unwrap_or_default();
    let completion: usize = usages.iter().map(|usage| usage.completion_tokens).sum();
    let bytes: u64 = usages.iter().map(|usage| usage.kv_bytes).sum();
    let dense: u64 = usages.iter().map(|usage| usage.kv_bytes_dense).sum();
    let ratio = if dense > 0 {
        bytes as f64 / dense as f64
    } else {
        0.0
    };
    json!({
        "prompt_tokens": prompt.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt.prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": prompt.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
        "kv_bytes": bytes,
        "kv_ratio": ratio,
        "kv_policy": offer.label,
    })
}

/// The word for why an answer ended.
pub fn finish_word(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// What a stream makes of replies: events, and at the end the last ones.
pub trait Narrator: Send + 'static {
    /// The events before all replies.
    fn begin(&mut self) -> Vec<Event> {
        Vec::new()
    }

    /// The events of a reply, which is no failure.
    fn tell(&mut self, index: usize, reply: Reply) -> Vec<Event>;

    /// The events after all replies.
    fn end(&mut self) -> Vec<Event>;

    /// The events of a failure.
    fn fail(&mut self, error: &ApiError) -> Vec<Event> {
        vec![data(&error.body()), Event::default().data("[DONE]")]
    }
}

/// An event with an object.
pub fn data(value: &Value) -> Event {
    // A JSON text has no line breaks.
    Event::default().data(value.to_string())
}

/// Tells replies as they come. A client that goes away drops the stream, and with it the requests.
pub fn stream(replies: Replies, narrator: impl Narrator) -> Response {
    let events = events(replies, narrator);
    Sse::new(events)
        .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
        .into_response()
}

fn events(
    replies: Replies,
    mut narrator: impl Narrator,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let begun = narrator.begin();
    let waiting = std::collections::VecDeque::from(begun);
    let state = (replies, narrator, waiting, false);
    futures_util::stream::unfold(
        state,
        async |(mut replies, mut narrator, mut waiting, mut over)| {
            loop {
                if let Some(event) = waiting.pop_front() {
                    return Some((Ok(event), (replies, narrator, waiting, over)));
                }
                if over {
                    return None;
                }
                match replies.next().await {
                    Some((_, Reply::Failed(error))) => {
                        waiting.extend(narrator.fail(&error));
                        over = true;
                    }
                    Some((index, reply)) => waiting.extend(narrator.tell(index, reply)),
                    None => {
                        waiting.extend(narrator.end());
                        over = true;
                    }
                }
            }
        },
    )
}
