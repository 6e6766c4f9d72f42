//! `bench`: tokens a second.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use longwave_cli::codecs::Policies;
use longwave_cli::output::Notes;
use longwave_contract::kv::PAGE;
use longwave_runtime::engine::EngineOptions;

use crate::args::{Test, TokenArguments};
use crate::plot;
use crate::print::Printer;
use crate::result::{COMMIT, TokenResult, mean_and_deviation, nanoseconds, now};
use crate::station::{Site, Station};
use crate::subject::Subject;

/// How long a test runs before it counts.
const WARM_UP: Duration = Duration::from_millis(300);

impl TokenArguments {
    /// Does it.
    ///
    /// # Errors
    /// The model, a codec or a device cannot be used, or a test is beyond the model's context.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        let tests = self.tests()?;
        let choices = self.devices.choices()?;
        if let Some(folder) = &self.plot {
            ensure!(
                folder.is_dir(),
                "--plot {}: there is no such folder",
                folder.display()
            );
        }
        let mut subject = Subject::open(&self.subject, notes)?;
        let longest = tests.iter().map(Test::end).max().unwrap_or(1);
        let longest = u32::try_from(longest)
            .ok()
            .filter(|longest| *longest <= 1 << 28)
            .with_context(|| format!("a test of {longest} tokens is too long"))?;
        subject.reach(longest)?;
        let layers = subject.config().layers;
        for kv in &self.kv {
            kv.check(layers)?;
        }
        let context = longest.next_multiple_of(PAGE).min(subject.config().context);
        let mut sites = Vec::new();
        for choice in &choices {
            let backend = choice.open(notes)?;
            let chunk = self.chunk;
            let chunk =
                chunk.unwrap_or_else(|| EngineOptions::chunk_for(backend.caps(), subject.config()));
            let options = EngineOptions {
                chunk: chunk.min(context),
                overlap: self.overlap.map(|share| (share * 1000.0).round() as u32),
                sequences: self.parallel,
                cache_tokens: context.saturating_mul(self.parallel),
                ..EngineOptions::single(context)
            };
            sites.push(Site::new(backend, &subject, (options, &self.kv), notes)?);
        }
        let mut stations = Vec::new();
        for (index, site) in sites.iter().enumerate() {
            let ground = subject.ground(&self.text);
            let mut policies = Policies::new(&site.backend, &site.model, ground, notes);
            for kv in &self.kv {
                stations.push(Station::new((index, site), &mut policies, kv)?);
            }
        }
        let mut printer = Printer::new(self.output);
        let mut results = Vec::new();
        for test in tests {
            notes.note(format_args!("{test}"));
            for result in self.run(test, &subject, &sites, &mut stations)? {
                printer.row(&result)?;
                results.push(result);
            }
        }
        printer.end()?;
        if let Some(folder) = &self.plot {
            plot::draw(&results, folder)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// One test on all stations, repetition by repetition, so that what changes on the machine meanwhile meets all of them.
    fn run(
        &self,
        test: Test,
        subject: &Subject,
        sites: &[Site],
        stations: &mut [Station],
    ) -> Result<Vec<TokenResult>> {
        let mut footprints = Vec::new();
        for station in stations.iter_mut() {
            let begun = Instant::now();
            footprints.push(station.prepare(test, self.profile)?);
            // Devices that stood idle save power: a moment of work brings their clocks back.
            while begun.elapsed() < WARM_UP {
                station.measure(test)?;
            }
        }
        let mut samples = vec![Vec::new(); stations.len()];
        for _ in 0..self.repetitions {
            for (station, samples) in stations.iter_mut().zip(&mut samples) {
                samples.push(station.measure(test)?);
            }
        }
        let mut results = Vec::new();
        for ((station, footprint), samples) in stations.iter().zip(footprints).zip(&samples) {
            let site = &sites[station.site];
            let (caps, ceiling) = (site.backend.caps(), site.ceiling);
            let samples_ns = nanoseconds(samples);
            let times: Vec<f64> = samples_ns.iter().map(|ns| *ns as f64).collect();
            let tokens = f64::from(test.tokens) * f64::from(test.sequences);
            let rate = |time: &f64| tokens / time.max(1.0) * 1e9;
            let samples_ts: Vec<f64> = times.iter().map(rate).collect();
            let (avg_ns, stddev_ns) = mean_and_deviation(&times);
            let (avg_ts, stddev_ts) = mean_and_deviation(&samples_ts);
            let reached = match test.generates {
                true => footprint.work.bytes / ceiling.bandwidth,
                false => footprint.work.flops / ceiling.flops,
            };
            let count = |counts: bool| if counts { test.tokens } else { 0 };
            results.push(TokenResult {
                build_commit: COMMIT,
                model_type: subject.name().to_owned(),
                weights: subject.weights()?,
                random: matches!(subject, Subject::Random(_)),
                model_size: site.model.bytes(),
                model_n_params: subject.parameters()?,
                backend: caps.backend,
                device: caps.device.clone(),
                driver: caps.driver.clone(),
                kv: station.kv.to_string(),
                overlap: self.overlap.filter(|_| station.kv.chooses()),
                codec: station.codec(),
                resident: station.is_resident(),
                chunk: site.options.chunk,
                test: test.to_string(),
                n_prompt: count(!test.generates),
                n_gen: count(test.generates),
                n_depth: test.depth,
                n_parallel: test.sequences,
                test_time: now(),
                avg_ns,
                stddev_ns,
                avg_ts,
                stddev_ts,
                samples_ns,
                samples_ts,
                bytes_per_token: test.generates.then_some(footprint.work.bytes),
                flops_per_token: footprint.work.flops,
                ceiling_percent: 100.0 * reached * avg_ts,
                ceiling,
                kv_bytes: footprint.kv_bytes,
                peak_bytes: footprint.peak,
                profile: footprint.profile,
            });
        }
        Ok(results)
    }
}
