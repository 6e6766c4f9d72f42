//! A server of the program's, and requests to it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use longwave_tests::program;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;

/// A server that runs until it is dropped.
pub struct Server {
    process: Child,
    /// Where it listens.
    pub url: String,
    pub client: Client,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts one with a model on the processor.
    pub fn start(model: &Path, more: &[&str]) -> Result<Self> {
        let model = model.to_str().context("the model's path is not UTF-8")?;
        let common = [
            "serve",
            "-m",
            model,
            "--model-name",
            "small",
            "--port",
            "0",
            "--backend",
            "cpu",
        ];
        let mut process = Command::new(program::path()?)
            .args(common)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let errors = process.stderr.take().context("no standard error")?;
        let mut lines = BufReader::new(errors);
        let mut said = String::new();
        let url = loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                bail!("the server ended: {said}");
            }
            said.push_str(&line);
            if let Some(url) = line.trim().strip_prefix("listening on ") {
                break url.to_owned();
            }
        };
        let log = Arc::new(Mutex::new(said));
        read_on(lines, Arc::clone(&log));
        Ok(Server {
            process,
            url,
            client: Client::builder()
                .timeout(Duration::from_secs(180))
                .build()?,
            log,
        })
    }

    pub fn address(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Sends an object.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Response> {
        self.post_text(path, body.to_string()).await
    }

    /// Sends anything.
    pub async fn post_text(&self, path: &str, body: impl Into<reqwest::Body>) -> Result<Response> {
        let request = self.client.post(self.address(path)).body(body);
        Ok(request
            .header("content-type", "application/json")
            .send()
            .await?)
    }

    /// Sends an object and reads what comes back, which must be well.
    pub async fn ask(&self, path: &str, body: &Value) -> Result<Value> {
        let response = self.post(path, body).await?;
        let (status, text) = (response.status(), response.text().await?);
        ensure!(status == StatusCode::OK, "{path}: {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Sends an object that is to be refused: OpenAI's error object with a message that says `why`.
    pub async fn refused(&self, path: &str, body: &Value, status: u16, why: &str) -> Result<()> {
        let response = self.post(path, body).await?;
        error(response, status, why)
            .await
            .with_context(|| format!("{path}: {body}"))
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        let response = self.client.get(self.address(path)).send().await?;
        let (status, text) = (response.status(), response.text().await?);
        ensure!(status == StatusCode::OK, "{path}: {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// The events of a stream, without the last one, which must be `[DONE]`.
    pub async fn stream(&self, path: &str, body: &Value) -> Result<Vec<Value>> {
        let response = self.post(path, body).await?;
        ensure!(
            response.status() == StatusCode::OK,
            "{}",
            response.text().await?
        );
        let text = response.text().await?;
        let mut events: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .collect();
        ensure!(
            events.pop() == Some("[DONE]"),
            "the stream did not end: {text}"
        );
        events
            .iter()
            .map(|event| Ok(serde_json::from_str(event)?))
            .collect()
    }

    /// Waits until nothing is under way, and checks that nothing is held but what the prefix cache and sessions hold.
    pub async fn is_clean(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let stats = self.get("/stats").await?;
            let number = |name: &str| stats[name].as_u64().unwrap_or(u64::MAX);
            if number("running") == 0 && number("waiting") == 0 {
                ensure!(
                    number("kv_bytes_used") == number("kv_bytes_reusable")
                        && number("tokens_held") == 0,
                    "something is still held: {stats}"
                );
                self.get("/health").await?;
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "requests are still under way: {stats}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
        Ok(kilobytes.parse::<u64>()? * 1024)
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) -> Result<()> {
        let process = self.process.id().to_string();
        let sent = Command::new("kill").args([name, &process]).status()?;
        ensure!(sent.success(), "kill {name}");
        Ok(())
    }

    /// Waits until the process has ended.
    pub fn ended(&mut self, within: Duration) -> Result<std::process::ExitStatus> {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < until, "it has not ended: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.log.lock().map(|log| log.clone()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_on(lines: BufReader<ChildStderr>, log: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            if let Ok(mut log) = log.lock() {
                log.push_str(&line);
                log.push('\n');
            }
        }
    });
}

/// OpenAI's error object with a message that says `why`.
pub async fn error(response: Response, status: u16, why: &str) -> Result<()> {
    let (found, text) = (response.status().as_u16(), response.text().await?);
    ensure!(found == status, "{found}, not {status}: {text}");
    let object: Value = serde_json::from_str(&text)?;
    let message = object["error"]["message"].as_str().context("no message")?;
    ensure!(object["error"]["type"].is_string(), "{text}");
    ensure!(message.contains(why), "{message:?} does not say {why:?}");
    Ok(())
}
