//! What Prometheus reads, by vLLM's names where it has them.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use longwave_runtime::schedule::{Stats, Usage};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

type Level = Gauge<f64, AtomicU64>;

/// Labels of requests that ended.
type Ends = Family<Vec<(&'static str, &'static str)>, Counter>;

const FIRST: [f64; 16] = [
    0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0,
];
const BETWEEN: [f64; 14] = [
    0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.3, 0.5, 1.0, 2.0,
];
const WHOLE: [f64; 14] = [
    0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0,
];

/// Counters and histograms of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    running: Level,
    waiting: Level,
    cache_usage: Level,
    cache_bytes: Family<Vec<(&'static str, &'static str)>, Level>,
    compression: Level,
    prefix_queries: Counter,
    prefix_hits: Counter,
    prompt: Counter,
    generation: Counter,
    preemptions: Counter,
    ended: Ends,
    first: Histogram,
    between: Histogram,
    whole: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("longwave");
        let metrics = Metrics {
            running: Level::default(),
            waiting: Level::default(),
            cache_usage: Level::default(),
            cache_bytes: Family::default(),
            compression: Level::default(),
            prefix_queries: Counter::default(),
            prefix_hits: Counter::default(),
            prompt: Counter::default(),
            generation: Counter::default(),
            preemptions: Counter::default(),
            ended: Ends::default(),
            first: Histogram::new(FIRST),
            between: Histogram::new(BETWEEN),
            whole: Histogram::new(WHOLE),
            registry: Registry::default(),
        };
        let m = &metrics;
        registry.register(
            "num_requests_running",
            "Requests that are worked on",
            m.running.clone(),
        );
        registry.register(
            "num_requests_waiting",
            "Requests that wait",
            m.waiting.clone(),
        );
        registry.register(
            "kv_cache_usage_perc",
            "Share of the cache that is held, 1 for all of it; what only the prefix cache holds left out",
            m.cache_usage.clone(),
        );
        registry.register(
            "kv_cache_bytes",
            "Bytes of the cache that are held, by tier",
            m.cache_bytes.clone(),
        );
        registry.register(
            "kv_compression_ratio",
            "Bytes that the tokens in the cache would take as f16 rows, over those that they take",
            m.compression.clone(),
        );
        registry.register(
            "prefix_cache_queries",
            "Prompt tokens that were looked for in the cache",
            m.prefix_queries.clone(),
        );
        registry.register(
            "prefix_cache_hits",
            "Prompt tokens that were found in the cache",
            m.prefix_hits.clone(),
        );
        registry.register(
            "prompt_tokens",
            "Prompt tokens of requests that ended",
            m.prompt.clone(),
        );
        registry.register(
            "generation_tokens",
            "Tokens that were generated",
            m.generation.clone(),
        );
        registry.register(
            "num_preemptions",
            "Times that a request lost its rows to others",
            m.preemptions.clone(),
        );
        registry.register(
            "request_success",
            "Requests that ended, by reason",
            m.ended.clone(),
        );
        let seconds = |registry: &mut Registry, name, help, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        seconds(
            &mut registry,
            "time_to_first_token",
            "To the first token",
            &m.first,
        );
        seconds(
            &mut registry,
            "inter_token_latency",
            "Between two tokens",
            &m.between,
        );
        seconds(
            &mut registry,
            "e2e_request_latency",
            "To the end of a request",
            &m.whole,
        );
        Metrics {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    /// A request has its first token.
    pub fn first_token(&self, after: Duration) {
        self.first.observe(after.as_secs_f64());
        self.generation.inc();
    }

    /// A request has another token.
    pub fn next_token(&self, after: Duration) {
        self.between.observe(after.as_secs_f64());
        self.generation.inc();
    }

    /// A request ended.
    pub fn ended(&self, reason: &'static str, after: Duration, usage: Usage) {
        self.whole.observe(after.as_secs_f64());
        self.ended
            .get_or_create(&vec![("finished_reason", reason)])
            .inc();
        self.prompt.inc_by(usage.prompt_tokens as u64);
        self.prefix_queries.inc_by(usage.prompt_tokens as u64);
        self.prefix_hits.inc_by(usage.cached_tokens as u64);
    }

    /// All there is, in the text format.
    pub fn text(&self, stats: &Stats) -> String {
        self.running.set(stats.running as f64);
        self.waiting.set(stats.waiting as f64);
        let share = |part: u64, whole: u64| {
            if whole > 0 {
                part as f64 / whole as f64
            } else {
                0.0
            }
        };
        let live = stats.kv_bytes_used.saturating_sub(stats.kv_bytes_reusable);
        self.cache_usage.set(share(live, stats.kv_bytes_total));
        let tiers = [
            ("raw", stats.kv_bytes_raw),
            ("blocks", stats.kv_bytes_blocks),
            ("reusable", stats.kv_bytes_reusable),
        ];
        for (tier, bytes) in tiers {
            let level = self.cache_bytes.get_or_create(&vec![("tier", tier)]);
            level.set(bytes as f64);
        }
        self.compression.set(share(stats.kv_bytes_dense, live));
        let counted = self.preemptions.get();
        self.preemptions
            .inc_by(stats.preemptions.saturating_sub(counted));
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing to a string does not fail.
            Err(std::fmt::Error) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_dashboards_know() {
        let metrics = Metrics::default();
        metrics.first_token(Duration::from_millis(30));
        metrics.next_token(Duration::from_millis(7));
        let usage = Usage {
            prompt_tokens: 10,
            cached_tokens: 4,
            ..Usage::default()
        };
        metrics.ended("stop", Duration::from_secs(1), usage);
        let stats = Stats {
            running: 2,
            kv_bytes_used: 60,
            kv_bytes_reusable: 10,
            kv_bytes_total: 100,
            kv_bytes_dense: 150,
            preemptions: 3,
            ..Stats::default()
        };
        metrics.text(&stats);
        let text = metrics.text(&stats);
        for line in [
            "longwave_num_requests_running 2",
            "longwave_kv_cache_usage_perc 0.5",
            "longwave_kv_compression_ratio 3",
            "longwave_prefix_cache_hits_total 4",
            "longwave_prompt_tokens_total 10",
            "longwave_generation_tokens_total 2",
            "longwave_num_preemptions_total 3",
            "longwave_request_success_total{finished_reason=\"stop\"} 1",
            "longwave_time_to_first_token_seconds_count 1",
            "longwave_inter_token_latency_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
