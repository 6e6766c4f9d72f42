//! `bench serve` against a server that does as it is told: what it counts, and what it says where there is none.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Milliseconds before the first token, and between two.
const FIRST: u64 = 60;
const BETWEEN: u64 = 15;

fn answer(stream: &mut TcpStream, refused: &AtomicU32) -> std::io::Result<bool> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(false);
    }
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let plain = |stream: &mut TcpStream, status: &str, text: &str| {
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        )
    };
    if line.starts_with("GET /v1/models") {
        plain(stream, "200 OK", r#"{"data": [{"id": "parrot"}]}"#)?;
        return Ok(true);
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let prompt = body["prompt"].as_str().unwrap_or_default();
    let words = prompt.split(' ').count();
    let most = body["max_tokens"].as_u64().unwrap_or(0);
    // Of the requests that are measured, the first three are too many.
    if most > 1 && refused.fetch_add(1, Ordering::SeqCst) < 3 {
        plain(
            stream,
            "429 Too Many Requests",
            r#"{"error": {"message": "later"}}"#,
        )?;
        return Ok(true);
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    )?;
    std::thread::sleep(Duration::from_millis(FIRST));
    for index in 0..most {
        if index > 0 {
            std::thread::sleep(Duration::from_millis(BETWEEN));
        }
        let event = json!({"choices": [{"index": 0, "text": "word "}]});
        write!(stream, "data: {event}\n\n")?;
        stream.flush()?;
    }
    // Two tokens of a word, and three before all.
    let usage = json!({"prompt_tokens": 2 * words + 3, "completion_tokens": most, "prompt_tokens_details": {"cached_tokens": 3}});
    write!(
        stream,
        "data: {}\n\ndata: [DONE]\n\n",
        json!({"choices": [], "usage": usage})
    )?;
    Ok(false)
}

fn serve() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let refused = Arc::new(AtomicU32::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let refused = Arc::clone(&refused);
            std::thread::spawn(move || {
                let mut stream = stream;
                while answer(&mut stream, &refused).unwrap_or(false) {}
            });
        }
    });
    Ok(url)
}

fn bench(arguments: &[&str]) -> Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_bench"))
        .arg("serve")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("it cannot be called")
}

#[test]
fn what_users_wait_for_is_counted() -> Result<()> {
    let url = serve()?;
    let folder = tempfile::tempdir()?;
    let picture = folder.path().join("times.png");
    let plot = picture.to_str().context("the path is not UTF-8")?;
    let output = bench(&[
        "--url",
        &url,
        "-n",
        "20",
        "-c",
        "5",
        "-p",
        "101",
        "-g",
        "8",
        "--goodput",
        "ttft=5000",
        "-o",
        "json",
        "--plot",
        plot,
    ])?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    let found: Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| found[name].as_f64().with_context(|| format!("no {name}"));
    ensure!(
        found["model"] == "parrot" && number("requests")? == 20.0,
        "{found}"
    );
    ensure!(
        number("completed")? == 17.0 && number("refused")? == 3.0 && number("failed")? == 0.0,
        "{found}"
    );
    ensure!(number("completion_tokens")? == 17.0 * 8.0 && number("cached_tokens")? == 51.0);
    // Words were counted: 49 of two tokens each, and three.
    ensure!(number("prompt_tokens")? == 17.0 * 101.0, "{found}");
    let median = |name: &str| {
        found[name]["median"]
            .as_f64()
            .with_context(|| format!("no {name}"))
    };
    ensure!(
        median("ttft_ms")? >= FIRST as f64 && median("itl_ms")? >= 0.7 * BETWEEN as f64,
        "{found}"
    );
    ensure!(
        median("e2e_ms")? >= (FIRST + 7 * BETWEEN) as f64 * 0.9,
        "{found}"
    );
    let ratio = number("goodput")? / number("request_throughput")?;
    ensure!((ratio - 1.0).abs() < 1e-9, "{found}");
    ensure!(std::fs::read(&picture)?.starts_with(b"\x89PNG"));
    Ok(())
}

#[test]
fn a_server_that_is_not_there_is_named() -> Result<()> {
    let output = bench(&["--url", "http://127.0.0.1:9", "-n", "1"])?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && errors.contains("http://127.0.0.1:9"),
        "{errors}"
    );
    let output = bench(&["-p", "10", "--shared-tokens", "20"])?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(errors.contains("--shared-tokens 20"), "{errors}");
    Ok(())
}
