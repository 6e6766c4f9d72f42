//! What was measured.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::ceiling::Ceiling;
use crate::profile::Profile;

/// The commit that the program was built from.
pub const COMMIT: &str = env!("LONGWAVE_COMMIT");

/// One test of one policy on one backend. Names that llama-bench has mean the same here.
#[derive(Clone, Debug, Serialize)]
pub struct TokenResult {
    pub build_commit: &'static str,
    pub model_type: String,
    pub weights: &'static str,
    /// Whether the weights are random.
    pub random: bool,
    /// Bytes of the weights on the device.
    pub model_size: u64,
    pub model_n_params: u64,
    pub backend: &'static str,
    pub device: String,
    pub driver: String,
    pub kv: String,
    /// The share of a choice that was planted in the next one; absent where the weights chose, or nothing was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<f64>,
    /// The codecs, and the bytes that they make of a token; absent where nothing is compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec: Option<String>,
    /// Whether restored rows stayed from one token to the next.
    pub resident: bool,
    pub chunk: u32,
    pub test: String,
    pub n_prompt: u32,
    pub n_gen: u32,
    pub n_depth: u32,
    /// Sequences that decoded together.
    pub n_parallel: u32,
    /// Seconds since 1970.
    pub test_time: u64,
    pub avg_ns: f64,
    pub stddev_ns: f64,
    pub avg_ts: f64,
    pub stddev_ts: f64,
    pub samples_ns: Vec<u64>,
    pub samples_ts: Vec<f64>,
    /// The least that a generated token moves; absent for prompts.
    pub bytes_per_token: Option<f64>,
    /// The arithmetic that a token needs.
    pub flops_per_token: f64,
    /// What reached of the ceiling: of bandwidth where tokens are generated, of multiply-adds where they are taken in.
    pub ceiling_percent: f64,
    pub ceiling: Ceiling,
    /// Bytes of cache at the end of the test.
    pub kv_bytes: u64,
    /// The most memory of the device that was in use.
    pub peak_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

/// One op at one shape on one backend.
#[derive(Clone, Debug, Serialize)]
pub struct OpResult {
    pub build_commit: &'static str,
    pub model_type: String,
    pub weights: &'static str,
    pub backend: &'static str,
    pub device: String,
    pub driver: String,
    pub op: &'static str,
    /// The op and its shape.
    pub test: String,
    pub kernels: Vec<String>,
    /// The largest difference from the reference, as a share of what is allowed; absent where the backend is the reference.
    pub parity: Option<f32>,
    pub test_time: u64,
    pub avg_ns: f64,
    pub stddev_ns: f64,
    pub samples_ns: Vec<u64>,
    pub bytes: f64,
    pub flops: f64,
    pub bytes_per_second: f64,
    pub flops_per_second: f64,
    /// The least time at the ceilings, of the time that it took.
    pub ceiling_percent: f64,
    /// Which ceiling bounds it: `bandwidth` or `flops`.
    pub bound: &'static str,
    pub ceiling: Ceiling,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Nanoseconds of each.
pub fn nanoseconds(samples: &[Duration]) -> Vec<u64> {
    let samples = samples.iter();
    samples.map(|sample| sample.as_nanos() as u64).collect()
}

/// Mean, and deviation with one degree of freedom less than there are samples; 0 for a single one.
pub fn mean_and_deviation(samples: &[f64]) -> (f64, f64) {
    let count = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / count.max(1.0);
    if samples.len() < 2 {
        return (mean, 0.0);
    }
    let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_deviation(&[]), (0.0, 0.0));
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, 0.0));
        assert_eq!(mean_and_deviation(&[1.0, 3.0, 5.0]), (3.0, 2.0));
    }
}
