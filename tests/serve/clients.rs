//! Clients that others wrote: the official one, and a browser.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::server::Server;
use anyhow::{Context, Result, ensure};

/// A Python with the official client; or why there is none.
pub fn python() -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| {
            let home = std::env::var_os("HOME")?;
            Some(PathBuf::from(home).join(".cache"))
        });
    let folder = cache
        .ok_or("there is no folder for caches")?
        .join("longwave/openai-client");
    let python = folder.join("bin/python");
    let has = |python: &Path| {
        let found = Command::new(python).args(["-c", "import openai"]).output();
        found.is_ok_and(|output| output.status.success())
    };
    if has(&python) {
        return Ok(python);
    }
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr)
                .lines()
                .last()
                .unwrap_or_default()
                .to_owned()),
        }
    };
    let place = folder.to_str().ok_or("the cache's path is not UTF-8")?;
    run(Path::new("python3"), &["-m", "venv", place])
        .map_err(|why| format!("no Python environment: {why}"))?;
    run(&python, &["-m", "pip", "install", "-q", "openai"])
        .map_err(|why| format!("no official client: {why}"))?;
    Ok(python)
}

/// The official client.
pub async fn official(model: &Path, python: &Path) -> Result<()> {
    let server = Server::start(model, &["--context", "1024", "--api-key", "sesame"])?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("serve/client.py");
    let mut command = tokio::process::Command::new(python);
    let output = command.arg(script).arg(&server.url).output().await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}\n{}", server.log());
    Ok(())
}

/// A browser that takes pictures; or why there is none.
pub fn browser() -> Result<&'static str, String> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.into_iter().find(|name| {
        let output = Command::new(name).arg("--version").output();
        output.is_ok_and(|output| output.status.success())
    });
    found.ok_or_else(|| "there is no Chromium".to_owned())
}

/// The page runs in a browser, shows the server's figures, and looks like something.
pub async fn page(model: &Path, browser: &str) -> Result<()> {
    let server = Server::start(model, &["--context", "1024"])?;
    let folder = tempfile::tempdir()?;
    let picture = folder.path().join("page.png");
    let run = |arguments: Vec<String>| {
        let mut command = tokio::process::Command::new(browser);
        command.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=6000",
        ]);
        command.arg(format!(
            "--user-data-dir={}",
            folder.path().join("profile").display()
        ));
        command.args(arguments).arg(server.address("/"));
        async move {
            let output = tokio::time::timeout(Duration::from_secs(90), command.output()).await??;
            Ok::<_, anyhow::Error>(output)
        }
    };
    let output = run(vec!["--dump-dom".into()]).await?;
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        page.contains("<h1 id=\"model\">small</h1>"),
        "the page has no figures: {page}"
    );
    ensure!(page.contains("<dd id=\"running\">0</dd>"), "{page}");
    run(vec![
        format!("--screenshot={}", picture.display()),
        "--window-size=1000,700".into(),
    ])
    .await?;
    let png = std::fs::read(&picture).context("no picture")?;
    ensure!(
        png.starts_with(b"\x89PNG") && png.len() > 4000,
        "{} bytes",
        png.len()
    );
    Ok(())
}
