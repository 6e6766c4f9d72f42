//! How numbers and results are put to people and to other programs.

use std::fmt::Write as _;

use longwave_contract::kv::PAGE;
use longwave_runtime::generate::{Session, Summary};
use serde::Serialize;

/// A number of bytes in binary units, three or four digits: `512 B`, `1.50 KiB`, `93.8 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // What would be shown as 1024 belongs to the next unit.
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let digits = significant(value);
    format!("{value:.digits$} {unit}")
}

/// Things per second, three digits: `8.13 tokens/s`.
pub fn rate(per_second: f64) -> String {
    let digits = significant(per_second);
    format!("{per_second:.digits$} tokens/s")
}

fn significant(value: f64) -> usize {
    match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    }
}

/// A count with its noun: `1 token`, `2 tokens`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// Names and values below each other, the values in line.
pub fn block(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (index, (name, value)) in lines.iter().enumerate() {
        let end = if index + 1 < lines.len() { "\n" } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{name:width$}  {value}{end}");
    }
    text
}

/// What a run did, as `--json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunReport {
    /// The model, as it was asked for.
    pub model: String,
    /// The backend's name.
    pub backend: &'static str,
    /// The device's name.
    pub device: String,
    /// The cache's policy.
    pub kv: String,
    /// Generated tokens.
    pub tokens: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Why generation ended.
    pub finish: Option<&'static str>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were in the cache already.
    pub cached_tokens: usize,
    /// Tokens that the engine made room for.
    pub context: u32,
    /// The seed of the choice.
    pub seed: u64,
    /// Speed of taking the prompt in.
    pub prefill_tokens_per_second: f64,
    /// Speed of generation, the first token not counted.
    pub decode_tokens_per_second: f64,
    /// Bytes of cache that the sequence holds.
    pub kv_bytes: u64,
    /// Bytes that a dense cache would hold.
    pub kv_bytes_dense: u64,
    /// The first over the second.
    pub kv_ratio: f64,
    /// Tokens that are in blocks, of policies that compress.
    pub compressed_tokens: u32,
    /// Bytes of codecs' parameters, which all sequences share.
    pub codec_bytes: u64,
    /// Bytes on the device: weights, cache, working memory.
    pub device_bytes: u64,
}

impl RunReport {
    /// The report of one generation.
    ///
    /// # Errors
    /// When the session's sequence is gone.
    pub fn new(
        model: &str,
        session: &Session,
        summary: Summary,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let engine = session.engine();
        let caps = engine.backend().caps();
        let kv_bytes_dense = dense_bytes(
            session.tokens()?.len(),
            engine.model().config().dense_bytes_per_token(),
        );
        Ok(RunReport {
            model: model.to_owned(),
            backend: caps.backend,
            device: caps.device.clone(),
            kv: engine.policy().to_owned(),
            finish: summary.finish.map(|reason| reason.name()),
            prompt_tokens: summary.prompt_tokens + summary.cached_tokens,
            cached_tokens: summary.cached_tokens,
            context: engine.options().context,
            seed,
            prefill_tokens_per_second: summary.prefill_tokens_per_second(),
            decode_tokens_per_second: summary.decode_tokens_per_second(),
            kv_bytes: summary.kv_bytes,
            kv_bytes_dense,
            kv_ratio: share(summary.kv_bytes, kv_bytes_dense),
            compressed_tokens: session.compressed_tokens()?,
            codec_bytes: engine.codec_bytes(),
            device_bytes: engine.backend().allocated(),
            tokens: summary.tokens,
            text: summary.text,
        })
    }

    /// The report as a short block for people.
    pub fn block(&self) -> String {
        let mut prompt = format!(
            "{}, {}",
            count(self.prompt_tokens, "token"),
            rate(self.prefill_tokens_per_second)
        );
        if self.cached_tokens > 0 {
            let _ = write!(prompt, ", {} from the cache", self.cached_tokens);
        }
        let mut output = count(self.tokens.len(), "token");
        if self.tokens.len() > 1 {
            let _ = write!(output, ", {}", rate(self.decode_tokens_per_second));
        }
        if let Some(finish) = self.finish {
            let _ = write!(output, ", finished by {finish}");
        }
        let mut share = format!("{:.1} % of dense", self.kv_ratio * 100.0);
        if self.compressed_tokens > 0 {
            let tokens = count(self.compressed_tokens as usize, "token");
            let _ = write!(
                share,
                ", {tokens} compressed, codec {}",
                bytes(self.codec_bytes)
            );
        }
        block(&[
            ("device", format!("{} ({})", self.device, self.backend)),
            ("prompt", prompt),
            ("output", output),
            (
                "cache",
                format!("{}, {}, {share}", self.kv, bytes(self.kv_bytes)),
            ),
            (
                "memory",
                format!("{} on the device", bytes(self.device_bytes)),
            ),
        ])
    }
}

/// Bytes of a dense cache for so many tokens, in whole pages.
pub fn dense_bytes(tokens: usize, per_token: u64) -> u64 {
    (tokens as u64).div_ceil(u64::from(PAGE)) * u64::from(PAGE) * per_token
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        1.0
    } else {
        part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        for (number, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10_230, "9.99 KiB"),
            (10_239, "10.0 KiB"),
            (98_362_432, "93.8 MiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (1023 << 20, "1023 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(number), expected, "{number}");
        }
    }

    #[test]
    fn rates_have_three_digits() {
        assert_eq!(rate(0.0), "0.00 tokens/s");
        assert_eq!(rate(8.126), "8.13 tokens/s");
        assert_eq!(rate(99.96), "100 tokens/s");
        assert_eq!(rate(4321.4), "4321 tokens/s");
    }

    #[test]
    fn a_dense_cache_is_whole_pages() {
        assert_eq!(dense_bytes(0, 100), 0);
        assert_eq!(dense_bytes(1, 100), 3200);
        assert_eq!(dense_bytes(33, 100), 6400);
        assert_eq!(share(0, 0), 1.0);
        assert_eq!(share(1, 4), 0.25);
    }

    fn report() -> RunReport {
        RunReport {
            model: "smollm2:135m".into(),
            backend: "cpu",
            device: "A Processor".into(),
            kv: "dense".into(),
            tokens: vec![7, 8, 9],
            text: "a \"b\"\n".into(),
            finish: Some("max_tokens"),
            prompt_tokens: 34,
            cached_tokens: 0,
            context: 256,
            seed: 1,
            prefill_tokens_per_second: 123.4,
            decode_tokens_per_second: 9.87,
            kv_bytes: 1_474_560,
            kv_bytes_dense: 2_949_120,
            kv_ratio: 0.5,
            compressed_tokens: 0,
            codec_bytes: 0,
            device_bytes: 100 << 20,
        }
    }

    #[test]
    fn a_block_is_readable() {
        let expected = "device  A Processor (cpu)\n\
                        prompt  34 tokens, 123 tokens/s\n\
                        output  3 tokens, 9.87 tokens/s, finished by max_tokens\n\
                        cache   dense, 1.41 MiB, 50.0 % of dense\n\
                        memory  100 MiB on the device";
        assert_eq!(report().block(), expected);
        let short = RunReport {
            tokens: vec![7],
            cached_tokens: 30,
            finish: None,
            ..report()
        }
        .block();
        assert!(
            short.contains("prompt  34 tokens, 123 tokens/s, 30 from the cache\noutput  1 token\n"),
            "{short}"
        );
    }

    #[test]
    fn json_has_the_keys_that_programs_read() -> anyhow::Result<()> {
        let value = serde_json::to_value(report())?;
        assert_eq!(value["tokens"], serde_json::json!([7, 8, 9]));
        assert_eq!(value["text"], "a \"b\"\n");
        assert_eq!(value["finish"], "max_tokens");
        for key in [
            "prefill_tokens_per_second",
            "decode_tokens_per_second",
            "kv_bytes",
            "kv_bytes_dense",
            "kv_ratio",
        ] {
            assert!(
                value[key].as_f64().is_some_and(|number| number > 0.0),
                "{key}"
            );
        }
        for key in ["model", "backend", "device", "kv", "prompt_tokens"] {
            assert!(!value[key].is_null(), "{key}");
        }
        Ok(())
    }
}
