//! Benchmarks of Longwave.
//!
//! The bench program that compares backends is not written yet; until then `longwave run --json` reports tokens per second.
