//! One request: what is sent, and when which part of the answer came.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::args::{Endpoint, ServeArguments};

/// A server's interface.
pub struct Server<'a> {
    client: Client,
    arguments: &'a ServeArguments,
    /// The model's name.
    pub model: String,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With a whole answer.
    Answered,
    /// The server has too much to do.
    Refused,
    /// Otherwise.
    Failed(String),
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How it ended.
    pub end: End,
    /// When it was sent, after the first one.
    pub sent: Duration,
    /// From there to each part of the answer that held text.
    pub parts: Vec<Duration>,
    /// From there to the end.
    pub whole: Duration,
    /// Tokens, as the server counts them: of the prompt, those of them that were in its cache, and of the answer.
    pub tokens: [u64; 3],
}

impl<'a> Server<'a> {
    /// The server, whose first model is asked for where none is named.
    ///
    /// # Errors
    /// It does not answer, or lists no model.
    pub async fn new(arguments: &'a ServeArguments) -> Result<Server<'a>> {
        let client = Client::builder()
            .timeout(arguments.timeout)
            .pool_max_idle_per_host(usize::MAX)
            .build()?;
        let mut server = Server {
            client,
            arguments,
            model: arguments.model.clone().unwrap_or_default(),
        };
        if arguments.model.is_none() {
            let request = server.client.get(server.address("/v1/models"));
            let response = server.keyed(request).send().await;
            let response =
                response.with_context(|| format!("{} does not answer", arguments.url))?;
            let listed: Value = serde_json::from_str(&text(response).await?)?;
            let name = listed["data"][0]["id"].as_str();
            server.model = name.context("the server lists no model")?.to_owned();
        }
        Ok(server)
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.arguments.url.trim_end_matches('/'))
    }

    fn keyed(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.arguments.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    fn body(&self, prompt: &str, answer: u32) -> Value {
        let mut body = json!({
            "model": self.model,
            "max_tokens": answer,
            "ignore_eos": true,
            "temperature": 0.0,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        match self.arguments.endpoint {
            Endpoint::Completions => body["prompt"] = prompt.into(),
            Endpoint::Chat => body["messages"] = json!([{"role": "user", "content": prompt}]),
        }
        let extra: Map<String, Value> = self.arguments.extra.clone().unwrap_or_default();
        for (name, value) in extra {
            body[name] = value;
        }
        body
    }

    /// Sends a request and reads its answer to the end. `begun` is when the first one was sent.
    pub async fn ask(&self, prompt: &str, answer: u32, begun: Instant) -> Answer {
        let path = match self.arguments.endpoint {
            Endpoint::Completions => "/v1/completions",
            Endpoint::Chat => "/v1/chat/completions",
        };
        let sent = Instant::now();
        let mut found = Answer {
            end: End::Answered,
            sent: sent - begun,
            parts: Vec::new(),
            whole: Duration::ZERO,
            tokens: [0; 3],
        };
        let body = self.body(prompt, answer).to_string();
        let request = self.client.post(self.address(path));
        let request = self
            .keyed(request)
            .header("content-type", "application/json");
        let read = async {
            let response = request.body(body).send().await?;
            let refused = [
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::SERVICE_UNAVAILABLE,
            ];
            if refused.contains(&response.status()) {
                return Ok(End::Refused);
            }
            if !response.status().is_success() {
                bail!("{}", text(response).await.err().context("no error")?);
            }
            stream(response, |event| {
                let now = sent.elapsed();
                take(event, now, &mut found)
            })
            .await?;
            Ok(End::Answered)
        };
        found.end = match read.await {
            Ok(end) => end,
            Err(error) => End::Failed(format!("{error:#}")),
        };
        found.whole = sent.elapsed();
        found
    }
}

/// Takes note of one event of a stream.
fn take(event: &Value, now: Duration, answer: &mut Answer) -> Result<()> {
    if let Some(error) = event.get("error") {
        let message = error["message"].as_str().map(str::to_owned);
        bail!("{}", message.unwrap_or_else(|| error.to_string()));
    }
    let choice = &event["choices"][0];
    let texts = [
        &choice["text"],
        &choice["delta"]["content"],
        &choice["delta"]["reasoning_content"],
    ];
    if texts
        .iter()
        .any(|text| text.as_str().is_some_and(|text| !text.is_empty()))
    {
        answer.parts.push(now);
    }
    let usage = &event["usage"];
    if usage.is_object() {
        let cached = &usage["prompt_tokens_details"]["cached_tokens"];
        answer.tokens = [&usage["prompt_tokens"], cached, &usage["completion_tokens"]]
            .map(|count| count.as_u64().unwrap_or(0));
    }
    Ok(())
}

/// The text of a response that says that all is well.
async fn text(response: Response) -> Result<String> {
    let status = response.status();
    let text = response.text().await?;
    if status.is_success() {
        return Ok(text);
    }
    let message = serde_json::from_str::<Value>(&text).ok();
    let message = message.and_then(|error| Some(error["error"]["message"].as_str()?.to_owned()));
    bail!("{status}: {}", message.unwrap_or(text))
}

/// Reads server-sent events until `[DONE]`.
async fn stream(mut response: Response, mut take: impl FnMut(&Value) -> Result<()>) -> Result<()> {
    let mut lines = Lines::default();
    while let Some(bytes) = response.chunk().await? {
        lines.push(&bytes);
        while let Some(line) = lines.next() {
            match line.strip_prefix("data:").map(str::trim) {
                Some("[DONE]") => return Ok(()),
                Some(data) => take(&serde_json::from_str(data).context("an event is no JSON")?)?,
                None => {}
            }
        }
        ensure!(
            lines.bytes.len() < 1 << 24,
            "a line of the stream does not end"
        );
    }
    bail!("the stream ended before it was done")
}

/// Lines that come in pieces.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    from: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.from);
        self.from = 0;
        self.bytes.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<String> {
        let rest = &self.bytes[self.from..];
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let line = String::from_utf8_lossy(&rest[..end])
            .trim_end_matches('\r')
            .to_owned();
        self.from += end + 1;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_pieces() {
        let mut lines = Lines::default();
        lines.push(b"data: {\"a\"");
        assert_eq!(lines.next(), None);
        lines.push(b": 1}\r\n\ndata: [DO");
        assert_eq!(lines.next().as_deref(), Some("data: {\"a\": 1}"));
        assert_eq!(lines.next().as_deref(), Some(""));
        assert_eq!(lines.next(), None);
        lines.push(b"NE]\n");
        assert_eq!(lines.next().as_deref(), Some("data: [DONE]"));
    }

    #[test]
    fn parts_with_text_have_times() -> Result<()> {
        let mut answer = Answer {
            end: End::Answered,
            sent: Duration::ZERO,
            parts: Vec::new(),
            whole: Duration::ZERO,
            tokens: [0; 3],
        };
        let events = [
            r#"{"choices": [{"delta": {"role": "assistant", "content": ""}}]}"#,
            r#"{"choices": [{"delta": {"content": "a"}}]}"#,
            r#"{"choices": [{"text": "b"}]}"#,
            r#"{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}}"#,
        ];
        for (at, event) in (0..).zip(events) {
            take(
                &serde_json::from_str(event)?,
                Duration::from_secs(at),
                &mut answer,
            )?;
        }
        assert_eq!(answer.parts, [1, 2].map(Duration::from_secs));
        assert_eq!(answer.tokens, [7, 3, 2]);
        let error = serde_json::from_str(r#"{"error": {"message": "no room"}}"#)?;
        assert!(take(&error, Duration::ZERO, &mut answer).is_err());
        Ok(())
    }
}
