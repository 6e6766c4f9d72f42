//! The command line of `bench serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

/// Send requests to a server with OpenAI's interface and measure what its users would wait for.
///
/// Prompts are random words; how many tokens those are is asked of the server first. A request that is refused (429 or 503) counts as that and is not
/// sent again. Times are measured here: to the first token (TTFT), between two tokens (ITL), per token after the first (TPOT), and to the end (E2E).
#[derive(Args, Clone, Debug)]
pub struct ServeArguments {
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// The model's name; what the server lists first unless given
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// The key, where the server wants one
    #[arg(
        long,
        value_name = "KEY",
        env = "LONGWAVE_API_KEY",
        hide_env_values = true
    )]
    pub api_key: Option<String>,
    /// Which interface
    #[arg(long, value_enum, value_name = "NAME", default_value = "completions")]
    pub endpoint: Endpoint,
    /// Requests in all
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests: u32,
    /// Requests a second, at random times; all at once unless given
    #[arg(long, value_name = "RATE", value_parser = positive)]
    pub rate: Option<f64>,
    /// Requests under way at most
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub concurrency: Option<u32>,
    /// Tokens of each prompt, about
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt_tokens: u32,
    /// Those of them with which all prompts begin, about
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub shared_tokens: u32,
    /// Tokens of each answer; answers go on to there where the server knows `ignore_eos`
    #[arg(short = 'g', long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub answer_tokens: u32,
    /// What counts as good, in milliseconds; may be given several times
    #[arg(long, value_name = "TIME=MS", value_parser = Goal::parse)]
    pub goodput: Vec<Goal>,
    /// Seconds after which a request is given up
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub timeout: Duration,
    /// Decides prompts and times
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// A JSON object whose fields are added to each request, such as {"kv": {"policy": "q8"}}
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub extra: Option<serde_json::Map<String, serde_json::Value>>,
    /// How results are printed
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "md")]
    pub output: Form,
    /// Draw the shares of requests by their times as a PNG file
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// Which interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Endpoint {
    /// /v1/completions
    Completions,
    /// /v1/chat/completions
    Chat,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A Markdown table
    Md,
    /// One JSON object
    Json,
}

/// Which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Time {
    /// To the first token
    Ttft,
    /// Per token after the first
    Tpot,
    /// To the end
    E2e,
}

/// A time that a good request does not exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// Which time.
    pub time: Time,
    /// Milliseconds.
    pub most: f64,
}

impl Goal {
    fn parse(text: &str) -> Result<Self, String> {
        let (name, most) = text
            .split_once('=')
            .ok_or("expected ttft=MS, tpot=MS or e2e=MS")?;
        Ok(Goal {
            time: Time::from_str(name, true).map_err(|_| "expected ttft, tpot or e2e")?,
            most: positive(most)?,
        })
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("expected a number above 0".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(positive(text)?).map_err(|error| error.to_string())
}

fn object(text: &str) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_times_and_milliseconds() {
        let goal = Goal::parse("ttft=500");
        assert_eq!(
            goal,
            Ok(Goal {
                time: Time::Ttft,
                most: 500.0
            })
        );
        for text in ["ttft", "ttft=", "ttft=0", "ttft=inf", "itl=3"] {
            assert!(Goal::parse(text).is_err(), "{text}");
        }
    }
}
