//! The real hub client against a small hub on the loopback interface.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::remote::Hub;
use super::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Serves the repository `org/tiny` at revision `0123abc` the way the hub does, for as many requests as come.
fn serve(listener: TcpListener, files: &'static [(&'static str, &'static str)]) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away is its own affair.
            let _ = answer(stream, files);
        }
    });
}

fn answer(mut stream: TcpStream, files: &[(&str, &str)]) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut range = None;
    for line in lines.by_ref() {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some((start, end)) = line
            .strip_prefix("range: bytes=")
            .and_then(|text| text.split_once('-'))
        {
            range = start.parse::<usize>().ok().zip(end.parse::<usize>().ok());
        }
    }
    let mut words = request.split_whitespace();
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let path = target.split('?').next().unwrap_or_default();
    let body = if path == "/api/models/org/tiny" {
        Some(r#"{"id":"org/tiny","sha":"0123abc"}"#.to_string())
    } else if path == "/api/models/org/tiny/tree/0123abc" {
        let entries: Vec<String> = files
            .iter()
            .map(|(name, text)| {
                format!(
                    r#"{{"type":"file","oid":"0","size":{},"path":"{name}"}}"#,
                    text.len()
                )
            })
            .collect();
        Some(format!("[{}]", entries.join(",")))
    } else {
        files
            .iter()
            .find(|(name, _)| path.strip_prefix("/org/tiny/resolve/0123abc/") == Some(name))
            .map(|(_, text)| match range {
                Some((start, end)) => text.get(start..=end).unwrap_or_default().to_string(),
                None => (*text).to_string(),
            })
    };
    let (status, body) = match body {
        Some(body) if range.is_some() => ("206 Partial Content", body),
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", String::new()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: application/json\r\nETag: \"e\"\r\n\
         X-Repo-Commit: 0123abc\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes())?;
    }
    stream.flush()
}

#[test]
fn a_directory_comes_from_the_hub_client() -> Outcome {
    const FILES: &[(&str, &str)] = &[
        ("README.md", "not wanted"),
        ("config.json", "{}"),
        ("tokenizer.json", "{\"version\":\"1.0\"}"),
        (
            "model.safetensors.index.json",
            r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#,
        ),
        ("model-1.safetensors", "first shard"),
        ("model-2.safetensors", "second shard"),
        ("consolidated.safetensors", "not wanted"),
    ];
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let hub = Hub::at(&format!("http://{}", listener.local_addr()?));
    serve(listener, FILES);
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("hub/org/tiny/0123abc");
    let options = ResolveOptions {
        cache_directory: Some(directory.path().to_path_buf()),
        ..ResolveOptions::default()
    };
    // The first half of a shard from an interrupted run.
    fs::create_dir_all(&base)?;
    fs::write(base.join("model-2.safetensors.partial"), b"second")?;
    let reference = ModelReference::parse("org/tiny")?;
    let model = resolve_from(&reference, &options, &hub, &Pip, &mut |_| {})?;
    assert_eq!(model, LocalModel::Directory(base.clone()));
    for (name, text) in FILES {
        if *text == "not wanted" {
            assert!(!base.join(name).exists(), "{name}");
        } else {
            assert_eq!(fs::read_to_string(base.join(name))?, *text, "{name}");
        }
    }
    let offline = ResolveOptions {
        offline: true,
        ..options.clone()
    };
    let again = resolve_from(&reference, &offline, &hub, &Pip, &mut |_| {})?;
    assert_eq!(again, model);
    fs::remove_file(base.join("config.json"))?;
    let incomplete = resolve_from(&reference, &offline, &hub, &Pip, &mut |_| {});
    assert!(
        matches!(incomplete, Err(HubError::Offline { .. })),
        "{incomplete:?}"
    );
    let nowhere = ModelReference::parse("org/nowhere")?;
    let error = resolve_from(&nowhere, &options, &hub, &Pip, &mut |_| {});
    assert!(
        matches!(error, Err(HubError::RepositoryNotFound { .. })),
        "{error:?}"
    );
    Ok(())
}

#[test]
fn a_hub_that_refuses_or_keeps_silent_is_unreachable() -> Outcome {
    let repository = Repository {
        owner: "org".to_string(),
        name: "tiny".to_string(),
    };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let started = Instant::now();
    let error = Hub::at(&format!("http://{address}")).list(&repository, Duration::from_millis(300));
    assert!(
        matches!(error, Err(HubError::Unreachable { .. })),
        "{error:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(5));
    // Ends the abandoned request, then nothing listens any more.
    let mut pending = [0u8; 16];
    if let Ok((mut stream, _)) = listener.accept() {
        let _ = stream.read(&mut pending)?;
    }
    drop(listener);
    let error = Hub::at(&format!("http://{address}")).list(&repository, Duration::from_secs(20));
    assert!(
        matches!(error, Err(HubError::Unreachable { .. })),
        "{error:?}"
    );
    Ok(())
}
