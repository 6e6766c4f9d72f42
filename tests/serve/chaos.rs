//! Everything that may go wrong: nothing breaks, nothing is lost, nothing is mixed up.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::server::{Server, error};

/// Requests at once.
const MANY: usize = 200;

/// Two hundred streams at once: all end in time, most with a whole answer and the others refused; each says what it says alone, wherever the
/// model was sure.
pub async fn crowd(model: &Path) -> Result<()> {
    let server = Arc::new(Server::start(
        model,
        &["--context", "512", "--sequences", "32"],
    )?);
    let prompt = |index: usize| {
        let words = [
            "red", "blue", "green", "white", "black", "brown", "grey", "pink",
        ];
        let mut text = format!("Item {index}:");
        for at in 0..26 {
            text.push(' ');
            text.push_str(words[(index * 7 + at * (index % 5 + 1)) % 8]);
        }
        text
    };
    let body = |index: usize, logprobs: bool| {
        let mut body = json!({"prompt": prompt(index), "temperature": 0, "max_tokens": 32, "ignore_eos": true});
        if logprobs {
            body["logprobs"] = 2.into();
        }
        body
    };
    // What some of them say alone, and how sure the model was of each token.
    let mut alone = Vec::new();
    for index in (0..MANY).step_by(10) {
        let answer = server.ask("/v1/completions", &body(index, true)).await?;
        alone.push((index, answer["choices"][0].clone()));
    }
    let before = server.memory()?;
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for index in 0..MANY {
        let (server, mut body) = (Arc::clone(&server), body(index, false));
        body["stream"] = true.into();
        tasks.spawn(async move {
            let response = server.post("/v1/completions", &body).await?;
            if response.status() == 429 {
                ensure!(response.headers().contains_key("retry-after"));
                return Ok((index, None));
            }
            ensure!(response.status() == 200, "{}", response.text().await?);
            let text = response.text().await?;
            let events: Vec<Value> = text
                .lines()
                .filter_map(|line| line.strip_prefix("data: "))
                .filter(|event| *event != "[DONE]")
                .map(serde_json::from_str)
                .collect::<Result<_, _>>()?;
            ensure!(text.trim_end().ends_with("[DONE]"));
            let said: String = events
                .iter()
                .filter_map(|event| event["choices"][0]["text"].as_str())
                .collect();
            let last = events.last().context("no events")?;
            ensure!(last["choices"][0]["finish_reason"] == "length", "{last}");
            Ok((index, Some(said)))
        });
    }
    let mut said = vec![None; MANY];
    let (mut whole, mut refused) = (0, 0);
    while let Some(done) = tasks.join_next().await {
        let (index, text) = done??;
        match text {
            Some(text) => {
                whole += 1;
                said[index] = Some(text);
            }
            None => refused += 1,
        }
    }
    let took = begun.elapsed();
    ensure!(
        whole + refused == MANY && whole >= 150,
        "{whole} answered, {refused} refused"
    );
    ensure!(took < Duration::from_secs(120), "they took {took:?}");
    for (index, expected) in alone {
        let Some(found) = &said[index] else { continue };
        let expected_text = expected["text"].as_str().context("no text")?;
        if found == expected_text {
            continue;
        }
        // Up to where the model was not sure.
        let shared = found
            .bytes()
            .zip(expected_text.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        let tokens = expected["logprobs"]["tokens"]
            .as_array()
            .context("no tokens")?;
        let mut at = 0;
        let first = tokens.iter().position(|token| {
            at += token.as_str().map_or(0, str::len);
            at > shared
        });
        let top = &expected["logprobs"]["top_logprobs"][first.context("it is longer")?];
        let mut likely: Vec<f64> = top
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(_, logprob)| logprob.as_f64())
            .collect();
        likely.sort_by(|a, b| b.total_cmp(a));
        let margin = likely.first().zip(likely.get(1)).map(|(a, b)| a - b);
        ensure!(
            margin < Some(0.05),
            "request {index} says {found:?}, not {expected_text:?} (margin {margin:?})"
        );
    }
    server.is_clean().await?;
    let grown = server.memory()?.saturating_sub(before);
    // Pages of the cache are touched for the first time; nothing else stays.
    let stats = server.get("/stats").await?;
    let cache = stats["kv_bytes_used"].as_u64().context("no bytes")?;
    ensure!(
        grown < cache + (256 << 20),
        "it grew by {grown} bytes, with {cache} in the cache"
    );
    Ok(())
}

/// A full queue refuses with a time to wait; what waits is served.
pub async fn queue(model: &Path) -> Result<()> {
    let server = Arc::new(Server::start(
        model,
        &["--context", "512", "--sequences", "1", "--queue", "2"],
    )?);
    let body = json!({"prompt": "One two three", "max_tokens": 40, "ignore_eos": true});
    let mut tasks = JoinSet::new();
    for _ in 0..12 {
        let (server, body) = (Arc::clone(&server), body.clone());
        tasks.spawn(async move {
            let response = server.post("/v1/completions", &body).await?;
            let status = response.status().as_u16();
            if status == 429 {
                ensure!(response.headers().contains_key("retry-after"));
                error(response, 429, "wait").await?;
            }
            Ok(status)
        });
    }
    let mut found = Vec::new();
    while let Some(status) = tasks.join_next().await {
        found.push(status??);
    }
    let served = found.iter().filter(|status| **status == 200).count();
    ensure!(
        served >= 2 && found.iter().all(|status| [200, 429].contains(status)),
        "{found:?}"
    );
    ensure!(found.contains(&429), "{found:?}");
    server.is_clean().await
}

/// Clients that go away in the middle, and such as do not read, hold nobody up and hold nothing.
pub async fn clients(model: &Path) -> Result<()> {
    let server = Server::start(model, &["--context", "1024", "--sequences", "8"])?;
    let address = server
        .url
        .strip_prefix("http://")
        .context("no address")?
        .to_owned();
    let body = json!({"prompt": "Tell me a very long story", "max_tokens": 900, "ignore_eos": true, "stream": true}).to_string();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // Gone at once, after half a request, and after some of the answer.
    for (sent, read) in [
        (20, 0),
        (request.len() - 5, 0),
        (request.len(), 0),
        (request.len(), 1),
        (request.len(), 4000),
    ] {
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(&request.as_bytes()[..sent]).await?;
        let mut left: usize = read;
        let mut buffer = [0; 1024];
        while left > 0 {
            let found = stream.read(&mut buffer).await?;
            ensure!(found > 0, "the server hung up");
            left = left.saturating_sub(found);
        }
    }
    server.is_clean().await?;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(request.as_bytes()).await?;
        slow.push(stream);
    }
    let begun = Instant::now();
    let answer = server
        .ask(
            "/v1/completions",
            &json!({"prompt": "Hello", "max_tokens": 8}),
        )
        .await?;
    ensure!(answer["usage"]["completion_tokens"].as_u64() > Some(0));
    ensure!(
        begun.elapsed() < Duration::from_secs(30),
        "slow readers hold others up"
    );
    drop(slow);
    server.is_clean().await?;
    // A whole request that is cancelled by its client's own timeout.
    let short = server
        .client
        .post(server.address("/v1/completions"))
        .timeout(Duration::from_millis(300));
    let gone = short
        .body(json!({"prompt": "Tell me", "max_tokens": 900, "ignore_eos": true}).to_string())
        .send()
        .await;
    ensure!(gone.is_err(), "900 tokens took less than 0.3 s");
    server.is_clean().await
}

/// Bodies that are no requests: an error that says so, and nothing else.
pub async fn bodies(model: &Path) -> Result<()> {
    let server = Server::start(model, &["--context", "256"])?;
    let path = "/v1/chat/completions";
    let post = |bytes: Vec<u8>| server.post_text(path, bytes);
    error(
        post(b"{\"messages\": [\xff\xfe]}".to_vec()).await?,
        400,
        "UTF-8",
    )
    .await?;
    error(post(Vec::new()).await?, 400, "body").await?;
    error(
        post([b"{\"messages\": [], \"x\":".to_vec(), vec![b'['; 100_000]].concat()).await?,
        400,
        "recursion",
    )
    .await?;
    error(post(b"[1, 2]".to_vec()).await?, 400, "body").await?;
    error(
        post(br#"{"messages": [{"role": "user", "content": "x"}]} and more"#.to_vec()).await?,
        400,
        "trailing",
    )
    .await?;
    // A hundred megabytes are refused before they are read: by what they say of themselves, and where they say nothing.
    let before = server.memory()?;
    let begun = Instant::now();
    match server.post_text(path, vec![b' '; 100 << 20]).await {
        Ok(response) => error(response, 413, "longer").await?,
        // The server has hung up while they were being sent.
        Err(error) => ensure!(begun.elapsed() < Duration::from_secs(20), "{error}"),
    }
    ensure!(
        server.memory()?.saturating_sub(before) < 80 << 20,
        "the body was read"
    );
    let valid = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "temperature": 0.5, "stop": ["x"], "logit_bias": {"5": 1}, "n": 1}).to_string();
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let mut random = |end: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % end as u64) as usize
    };
    for round in 0..150 {
        let mut bytes = valid.clone().into_bytes();
        for _ in 0..=random(4) {
            let at = random(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
            match random(4) {
                _ if bytes.is_empty() => bytes.push(b'{'),
                0 => bytes[at] = random(256) as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"{}[]\",:0-9e.\\"[random(13)]),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let sent = String::from_utf8_lossy(&bytes).into_owned();
        let response = post(bytes).await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        ensure!(
            [200, 400, 404].contains(&status),
            "round {round}: {status} for {sent}: {text}"
        );
        serde_json::from_str::<Value>(&text).with_context(|| format!("{sent}: {text}"))?;
    }
    server.is_clean().await
}

/// Sessions: they go on, are saved, restored, forked and forgotten; a kill in the middle of saving leaves the last file whole; the end saves them.
pub async fn sessions(model: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path().to_str().context("the path is not UTF-8")?;
    let flags = ["--context", "2048", "--session-dir", place];
    let mut server = Server::start(model, &flags)?;
    let long = "once upon a time there was a king who had three daughters ".repeat(60);
    let say = |session: &str, text: &str| json!({"prompt": text, "session": session, "temperature": 0, "max_tokens": 12, "ignore_eos": true});
    let first = server.ask("/v1/completions", &say("a", &long)).await?;
    let next = format!(
        "{long}{}",
        first["choices"][0]["text"].as_str().context("no text")?
    );
    let saved = server.ask("/v1/sessions/a/save", &json!({})).await?;
    ensure!(saved["bytes"].as_u64() > Some(1 << 20), "{saved}");
    let forked = server
        .ask("/v1/sessions/a/fork", &json!({"to": "b"}))
        .await?;
    ensure!(
        forked["id"] == "b" && forked["tokens"].as_u64() > Some(600),
        "{forked}"
    );
    let expected = server.ask("/v1/completions", &say("b", &next)).await?;
    ensure!(
        expected["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(600),
        "{expected}"
    );
    let listed = server.get("/v1/sessions").await?;
    ensure!(
        listed["data"].as_array().map(Vec::len) == Some(2),
        "{listed}"
    );
    let response = server
        .client
        .delete(server.address("/v1/sessions/b"))
        .send()
        .await?;
    ensure!(response.status() == 200);
    for (path, status, why) in [
        ("/v1/sessions/b/save", 404, "\"b\""),
        ("/v1/sessions/none/restore", 404, "none"),
        ("/v1/sessions/.x/save", 400, "no name"),
    ] {
        server.refused(path, &json!({}), status, why).await?;
    }
    let path = folder.path().join("a.session");
    let whole = std::fs::read(&path)?;
    // Killed while it saves, at several moments.
    for wait in [0, 2, 5, 10] {
        let request = server.client.post(server.address("/v1/sessions/a/save"));
        let saving = tokio::spawn(request.send());
        tokio::time::sleep(Duration::from_millis(wait)).await;
        server.signal("-KILL")?;
        server.ended(Duration::from_secs(10))?;
        let _ = saving.await;
        ensure!(
            std::fs::read(&path)? == whole,
            "the file is another after {wait} ms"
        );
        server = Server::start(model, &flags)?;
        let restored = server.ask("/v1/sessions/a/restore", &json!({})).await?;
        ensure!(restored["tokens"] == forked["tokens"], "{restored}");
    }
    let again = server.ask("/v1/completions", &say("a", &next)).await?;
    ensure!(
        again["choices"][0]["text"] == expected["choices"][0]["text"],
        "{again}, not {expected}"
    );
    // A damaged file is refused whole, and what is there stays.
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(&path, damaged)?;
    server
        .refused("/v1/sessions/a/restore", &json!({}), 409, "is damaged")
        .await?;
    ensure!(server.get("/v1/sessions").await?["data"][0]["id"] == "a");
    drop(server);
    // The end saves what is there, after what is under way has ended.
    std::fs::remove_file(&path)?;
    let mut server = Server::start(
        model,
        &[
            flags.as_slice(),
            &["--save-on-exit", "--log-format", "json"],
        ]
        .concat(),
    )?;
    server.ask("/v1/completions", &say("a", &long)).await?;
    let mut body = say("c", "Tell me");
    body["max_tokens"] = 200.into();
    let under_way = tokio::spawn(
        server
            .client
            .post(server.address("/v1/completions"))
            .body(body.to_string())
            .send(),
    );
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.signal("-TERM")?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let late = server.post("/v1/completions", &say("d", "x")).await;
    ensure!(late.is_err() || late.is_ok_and(|response| response.status() == 503));
    let answer = under_way.await??;
    ensure!(answer.status() == 200, "what was under way was cut off");
    let answer: Value = serde_json::from_str(&answer.text().await?)?;
    ensure!(answer["usage"]["completion_tokens"] == 200, "{answer}");
    let status = server.ended(Duration::from_secs(60))?;
    ensure!(status.success(), "{status}: {}", server.log());
    ensure!(
        path.exists() && folder.path().join("c.session").exists(),
        "{}",
        server.log()
    );
    let logged = server.log();
    let lines = logged.lines().filter(|line| line.starts_with('{'));
    let objects: Vec<Value> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(
        objects
            .iter()
            .any(|line| line["fields"]["completion_tokens"] == 200),
        "{logged}"
    );
    ensure!(!logged.contains("daughters"), "prompts are logged");
    Ok(())
}
