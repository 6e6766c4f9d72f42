//! `bench serve`: what users of a server wait for.

mod args;
mod client;
mod figures;
mod plot;
mod prompts;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use longwave_cli::output::{Notes, Output};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use args::Form;
pub use args::ServeArguments;
use client::{Answer, End, Server};
use figures::Figures;
pub use figures::Spread;

/// Words of the request by which words are counted.
const TRIAL: u32 = 200;

impl ServeArguments {
    /// Does it.
    ///
    /// # Errors
    /// The server does not answer, or none of the requests is answered.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        ensure!(
            self.shared_tokens <= self.prompt_tokens,
            "--shared-tokens {} is more than --prompt-tokens {}",
            self.shared_tokens,
            self.prompt_tokens
        );
        let answers = Runtime::new()?.block_on(self.run(notes))?;
        let (figures, times) = Figures::of(self, &answers.0, &answers.1);
        let mut output = Output::stdout();
        match self.output {
            Form::Md => output.text(&format!("{}\n", figures.table()))?,
            Form::Json => output.json(&figures)?,
        }
        if let Some(path) = &self.plot {
            let saved = plot::draw(&figures, &times).save(path);
            saved.with_context(|| format!("{} cannot be written", path.display()))?;
        }
        ensure!(
            figures.completed > 0,
            "none of the {} requests was answered",
            figures.requests
        );
        Ok(ExitCode::SUCCESS)
    }

    /// The model's name, and all answers in the order in which they were sent.
    async fn run(&self, notes: &Notes) -> Result<(String, Vec<Answer>)> {
        // It lives as long as the program.
        let arguments: &'static ServeArguments = Box::leak(Box::new(self.clone()));
        let server = Arc::new(Server::new(arguments).await?);
        let begun = Instant::now();
        // Tokens of a template and of words.
        let mut counts = [0u64; 2];
        for (count, words) in counts.iter_mut().zip([1, TRIAL]) {
            let prompt = prompts::words(self.seed, u64::MAX - 1, words);
            let trial = server.ask(&prompt, 1, begun).await;
            if let End::Failed(why) = &trial.end {
                anyhow::bail!("a first request failed: {why}");
            }
            *count = trial.tokens[0];
        }
        let per_word = counts[1].saturating_sub(counts[0]) as f64 / f64::from(TRIAL - 1);
        ensure!(
            per_word > 0.0,
            "the server does not say how many tokens a prompt has: its streams hold no usage"
        );
        let words = |tokens: f64| (tokens / per_word).round().max(0.0) as u32;
        let template = counts[0] as f64 - per_word;
        let shared = words(f64::from(self.shared_tokens));
        let own = words(f64::from(self.prompt_tokens - self.shared_tokens) - template).max(1);
        notes.note(format_args!(
            "{} at {}: prompts of {} words, {per_word:.2} tokens each",
            server.model,
            self.url,
            shared + own
        ));
        let beginning = prompts::words(self.seed, u64::MAX - 2, shared);
        let waits = match self.rate {
            Some(rate) => prompts::waits(self.seed, rate, self.requests),
            None => vec![0.0; self.requests as usize],
        };
        let limit = Arc::new(Semaphore::new(
            self.concurrency.unwrap_or(self.requests) as usize
        ));
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for (number, wait) in waits.into_iter().enumerate() {
            let prompt = format!(
                "{beginning} {}",
                prompts::words(self.seed, number as u64, own)
            );
            let (server, limit) = (Arc::clone(&server), Arc::clone(&limit));
            let answer_tokens = self.answer_tokens;
            tasks.spawn(async move {
                sleep_until((begun + Duration::from_secs_f64(wait)).into()).await;
                let _turn = limit.acquire().await;
                let answer = server.ask(prompt.trim(), answer_tokens, begun).await;
                (number, answer)
            });
        }
        let mut answers = Vec::new();
        while let Some(answer) = tasks.join_next().await {
            answers.push(answer?);
        }
        answers.sort_by_key(|(number, _)| *number);
        let answers = answers.into_iter().map(|(_, answer)| answer).collect();
        Ok((server.model.clone(), answers))
    }
}
