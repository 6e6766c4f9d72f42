//! `bench ops`: each op at the shapes of a model, checked against the reference before it is timed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use longwave_cli::output::Notes;
use longwave_contract::{
    Backend, BackendError, DType, DeviceKind, Op, PlanId, Recording, Trace, first_divergence,
};
use longwave_tests::adapter;
use longwave_tests::rig::Rig;

use crate::args::{DevicesArguments, Format, SubjectArguments};
use crate::ceiling::Ceiling;
use crate::op::{Case, Shapes, suites};
use crate::print::Printer;
use crate::profile::kernels_of;
use crate::result::{COMMIT, OpResult, mean_and_deviation, nanoseconds, now};
use crate::subject::Subject;
use crate::work::Work;

/// Decides the operands' values.
const SEED: u64 = 7;
/// How long an op runs before it counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// A sample of less is made of more runs.
const SAMPLE: Duration = Duration::from_millis(10);
/// Ops of a recording at most: so many that its submission does not count.
const REPEATED: u32 = 64;
/// Operands are made again and again up to so many bytes, so that caches hold none of them when its turn comes.
const COLD: u64 = 256 << 20;
/// The same where the processor computes.
const COLD_HOST: u64 = 64 << 20;
/// How often they are made at most.
const COPIES: u64 = 16;

/// Measure each op at the shapes of a model, once it agrees with the reference. An op that does not is not timed, and the exit code is 1.
#[derive(Args, Debug)]
pub struct OpsArguments {
    /// The model
    #[command(flatten)]
    pub subject: SubjectArguments,
    /// The devices
    #[command(flatten)]
    pub devices: DevicesArguments,
    /// Ops to measure, all unless named
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', value_parser = name)]
    pub op: Vec<String>,
    /// Rows of a step
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,512", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub rows: Vec<u32>,
    /// Tokens of a sequence
    #[arg(short = 'd', long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(16..=1 << 20))]
    pub depth: u32,
    /// How often each op is measured
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// How results are printed
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "md")]
    pub output: Format,
}

fn name(text: &str) -> Result<String, String> {
    match Op::NAMES.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "there is no op `{text}`; expected {}",
            Op::NAMES.join(", ")
        )),
    }
}

/// A backend that ops are measured on.
struct Bench {
    backend: Arc<dyn Backend>,
    ceiling: Ceiling,
}

impl OpsArguments {
    /// Does it.
    ///
    /// # Errors
    /// The shape or a device cannot be used.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        let choices = self.devices.choices()?;
        let subject = Subject::open(&self.subject, notes)?;
        let weights = subject.weights()?;
        let dtype = DType::WEIGHTS
            .into_iter()
            .find(|dtype| dtype.name() == weights);
        let shapes = Shapes {
            config: subject.config().clone(),
            dtype: dtype.with_context(|| format!("{weights} is no type of weights"))?,
            rows: self.rows.clone(),
            depth: self.depth,
        };
        let mut benches = Vec::new();
        for choice in &choices {
            let backend = choice.open(notes)?;
            notes.note(format_args!(
                "measuring what {} reaches",
                backend.caps().backend
            ));
            let ceiling = Ceiling::measure(&backend)?;
            benches.push(Bench { backend, ceiling });
        }
        let mut printer = Printer::new(self.output);
        let mut refused = Vec::new();
        for (op, cases) in suites(&shapes) {
            if !self.op.is_empty() && !self.op.iter().any(|name| name == op) {
                continue;
            }
            for case in cases {
                notes.note(&case.name);
                for result in self.run(&case, &benches, &subject, &mut refused)? {
                    printer.row(&result)?;
                }
            }
        }
        printer.end()?;
        ensure!(refused.is_empty(), "not timed: {}", refused.join("; "));
        Ok(ExitCode::SUCCESS)
    }

    /// One case on all backends, repetition by repetition.
    fn run(
        &self,
        case: &Case,
        benches: &[Bench],
        subject: &Subject,
        refused: &mut Vec<String>,
    ) -> Result<Vec<OpResult>> {
        let mut ready = Vec::new();
        for bench in benches {
            let backend = &bench.backend;
            let about = || format!("{} on {}", case.name, backend.caps().backend);
            let mut rig = Rig::new(backend, SEED);
            let op = case.build(&mut rig).with_context(about)?;
            // Backends say which heads they read as they are stored; the runtime asks no other for it.
            let caps = backend.caps();
            if let Op::AttendStored(op) = op
                && !caps.reads_stored(op.shape.head_dim, op.k_norm.is_some())
            {
                continue;
            }
            match backend.prepare(&recording(&[op], 1)?) {
                Ok(plan) => backend.release(plan),
                Err(error @ BackendError::Unsupported { .. }) => {
                    refused.push(format!("{}: {error}", about()));
                    continue;
                }
                Err(error) => return Err(error).with_context(about),
            }
            let parity = parity(case, backend).with_context(about)?;
            // What is not a number is not within.
            if let Some(share) = parity.filter(|share| share.is_nan() || *share > 1.0) {
                let far = format!("{share:.1} times as far from the reference as is allowed");
                refused.push(format!("{}: {far}", about()));
                continue;
            }
            ready.push((bench, Timed::new(case, (rig, op), backend)?, parity));
        }
        let mut samples = vec![Vec::new(); ready.len()];
        for _ in 0..self.repetitions {
            for ((_, timed, _), samples) in ready.iter().zip(&mut samples) {
                samples.push(timed.sample()?);
            }
        }
        let mut results = Vec::new();
        for ((bench, timed, parity), samples) in ready.iter().zip(&samples) {
            let caps = bench.backend.caps();
            let samples_ns = nanoseconds(samples);
            let times: Vec<f64> = samples
                .iter()
                .map(|time| time.as_secs_f64() * 1e9)
                .collect();
            let (avg_ns, stddev_ns) = mean_and_deviation(&times);
            let seconds = avg_ns.max(1.0) / 1e9;
            let (work, ceiling) = (timed.work, bench.ceiling);
            let moves = work.bytes / ceiling.bandwidth >= work.flops / ceiling.flops;
            results.push(OpResult {
                build_commit: COMMIT,
                model_type: subject.name().to_owned(),
                weights: subject.weights()?,
                backend: caps.backend,
                device: caps.device.clone(),
                driver: caps.driver.clone(),
                op: timed.op,
                test: case.name.clone(),
                kernels: timed.kernels.clone(),
                parity: *parity,
                test_time: now(),
                avg_ns,
                stddev_ns,
                samples_ns,
                bytes: work.bytes,
                flops: work.flops,
                bytes_per_second: work.bytes / seconds,
                flops_per_second: work.flops / seconds,
                ceiling_percent: 100.0 * work.seconds(&ceiling) / seconds,
                bound: if moves { "bandwidth" } else { "flops" },
                ceiling,
            });
        }
        Ok(results)
    }
}

/// The largest difference from the reference, as a share of what is allowed; `None` for the reference itself.
fn parity(case: &Case, backend: &Arc<dyn Backend>) -> Result<Option<f32>> {
    if backend.caps().kind == DeviceKind::Cpu {
        return Ok(None);
    }
    let reference = adapter::cpu();
    let (mut here, mut there) = (Rig::new(&reference, SEED), Rig::new(backend, SEED));
    let expected = recording(&[case.build_compared(&mut here)?], 1)?;
    let found = recording(&[case.build_compared(&mut there)?], 1)?;
    let divergence = first_divergence(
        Trace {
            backend: &*reference,
            recording: &expected,
        },
        Trace {
            backend: &**backend,
            recording: &found,
        },
    )?;
    let shares = divergence.agreements.iter();
    let shares = shares.filter_map(|agreement| Some(agreement.worst?.share));
    Ok(Some(shares.fold(0.0, f32::max)))
}

/// `count` ops, the given ones in turn.
fn recording(ops: &[Op], count: u32) -> Result<Recording> {
    let mut recording = Recording::new("bench");
    for op in ops.iter().cycle().take(count as usize) {
        recording.push(*op)?;
    }
    Ok(recording)
}

/// An op that is ready to be timed.
struct Timed {
    backend: Arc<dyn Backend>,
    op: &'static str,
    work: Work,
    kernels: Vec<String>,
    plan: PlanId,
    /// Ops of the plan.
    repeated: u32,
    /// Runs of a sample.
    runs: u32,
    /// Hold the operands.
    _rigs: Vec<Rig>,
}

impl Timed {
    fn new(case: &Case, (rig, op): (Rig, Op), backend: &Arc<dyn Backend>) -> Result<Self> {
        let work = Work::of(&op, &**backend)?;
        let bytes: u64 = op
            .operands()
            .iter()
            .map(|operand| operand.tensor.bytes())
            .sum();
        let hosted = matches!(backend.caps().kind, DeviceKind::Cpu | DeviceKind::Software);
        let cold = if hosted { COLD_HOST } else { COLD };
        let (mut rigs, mut ops) = (vec![rig], vec![op]);
        for _ in 1..(cold / bytes.max(1)).clamp(1, COPIES) {
            let mut rig = Rig::new(backend, SEED);
            ops.push(case.build(&mut rig)?);
            rigs.push(rig);
        }
        let once = backend.prepare(&recording(&ops, 1)?)?;
        let kernels = kernels_of(op.name(), &backend.kernels(once));
        let first = time(&**backend, once, 1).and_then(|_| time(&**backend, once, 1));
        backend.release(once);
        let repeated = runs_of(first?).clamp(1, REPEATED);
        let plan = backend.prepare(&recording(&ops, repeated)?)?;
        let mut timed = Timed {
            backend: Arc::clone(backend),
            op: op.name(),
            work,
            kernels,
            plan,
            repeated,
            runs: 1,
            _rigs: rigs,
        };
        // The check against the reference left the device idle, and devices save power then: a moment of work brings their clocks back.
        let begun = Instant::now();
        let mut warm = time(&**backend, plan, 1)?;
        while begun.elapsed() < WARM_UP {
            warm = time(&**backend, plan, 1)?;
        }
        timed.runs = runs_of(warm);
        Ok(timed)
    }

    /// The time of one op.
    fn sample(&self) -> Result<Duration> {
        let took = time(&*self.backend, self.plan, self.runs)?;
        Ok(took / (self.runs * self.repeated))
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.backend.release(self.plan);
    }
}

/// How many runs a sample has, each of this time.
fn runs_of(time: Duration) -> u32 {
    let runs = SAMPLE.as_nanos().div_ceil(time.as_nanos().max(1));
    runs.clamp(1, 1000) as u32
}

fn time(backend: &dyn Backend, plan: PlanId, runs: u32) -> Result<Duration> {
    let start = Instant::now();
    let mut last = None;
    for _ in 0..runs {
        last = Some(backend.run(plan)?);
    }
    last.map_or(Ok(()), |ticket| backend.wait(ticket))?;
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use longwave_contract::op::LinearAdd;
    use longwave_contract::{BufferDesc, BufferId, Caps, Ticket};
    use longwave_tests::rig::Values;

    use super::*;
    use crate::args::{Arguments, Command};

    /// The processor under another name, which reads what it never wrote.
    struct Wrong(Arc<dyn Backend>, Caps);

    impl Backend for Wrong {
        fn caps(&self) -> &Caps {
            &self.1
        }

        fn allocated(&self) -> u64 {
            self.0.allocated()
        }

        fn alloc(&self, desc: &BufferDesc) -> Result<BufferId, BackendError> {
            self.0.alloc(desc)
        }

        fn free(&self, buffer: BufferId) {
            self.0.free(buffer);
        }

        fn write(&self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), BackendError> {
            self.0.write(buffer, offset, bytes)
        }

        fn read(
            &self,
            buffer: BufferId,
            offset: u64,
            bytes: &mut [u8],
        ) -> Result<(), BackendError> {
            self.0.read(buffer, offset, bytes)?;
            if let [.., _, _, last, _] = bytes {
                *last ^= 0x40;
            }
            Ok(())
        }

        fn copy(
            &self,
            from: (BufferId, u64),
            to: (BufferId, u64),
            bytes: u64,
        ) -> Result<(), BackendError> {
            self.0.copy(from, to, bytes)
        }

        fn prepare(&self, recording: &Recording) -> Result<PlanId, BackendError> {
            self.0.prepare(recording)
        }

        fn kernels(&self, plan: PlanId) -> Vec<String> {
            self.0.kernels(plan)
        }

        fn release(&self, plan: PlanId) {
            self.0.release(plan);
        }

        fn run(&self, plan: PlanId) -> Result<Ticket, BackendError> {
            self.0.run(plan)
        }

        fn wait(&self, ticket: Ticket) -> Result<(), BackendError> {
            self.0.wait(ticket)
        }
    }

    #[test]
    fn what_is_out_of_tolerance_is_not_timed() -> Result<()> {
        let line = "bench ops --shape smollm2-135m -r 1 --rows 2 -d 32";
        let arguments = Arguments::try_parse_from(line.split(' '))?;
        let Some(Command::Ops(arguments)) = arguments.command else {
            anyhow::bail!("these are ops");
        };
        let subject = Subject::open(&arguments.subject, &Notes::new(true))?;
        let right = adapter::cpu();
        let caps = Caps {
            kind: DeviceKind::Other,
            backend: "wrong",
            ..right.caps().clone()
        };
        let wrong: Arc<dyn Backend> = Arc::new(Wrong(Arc::clone(&right), caps));
        let ceiling = Ceiling {
            bandwidth: 1e9,
            bandwidth_by: "copy",
            flops: 1e9,
        };
        let benches = [right, wrong].map(|backend| Bench { backend, ceiling });
        let case = Case::new("linear_add 2 x 32 x 32".into(), |rig| {
            Ok(LinearAdd {
                a: rig.f32(2, 32, Values::Flat)?,
                weight: rig.weight(DType::F16, 32, 32)?,
                bias: None,
                count: rig.count(2)?,
                x: rig.f32(2, 32, Values::Flat)?,
            })
        });
        let mut refused = Vec::new();
        let results = arguments.run(&case, &benches, &subject, &mut refused)?;
        let timed: Vec<&str> = results.iter().map(|result| result.backend).collect();
        assert_eq!(timed, ["cpu"]);
        assert_eq!(refused.len(), 1);
        assert!(refused[0].contains("on wrong"), "{refused:?}");
        Ok(())
    }

    #[test]
    fn every_op_has_cases_and_some_work() -> Result<()> {
        let config = r#"{"model_type": "qwen3", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "head_dim": 64,
            "num_hidden_layers": 1, "vocab_size": 100, "max_position_embeddings": 512, "num_key_value_heads": 1}"#;
        let shapes = Shapes {
            config: longwave_runtime::model::ModelConfig::from_json("tiny", config)?,
            dtype: DType::Q4,
            rows: vec![1, 5],
            depth: 400,
        };
        let suites = suites(&shapes);
        let names: Vec<&str> = suites.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, Op::NAMES);
        let backend = adapter::cpu();
        for (name, cases) in suites {
            assert!(!cases.is_empty(), "{name}");
            for case in cases {
                let mut rig = Rig::new(&backend, SEED);
                let op = case.build(&mut rig)?;
                assert_eq!(op.name(), name);
                assert!(case.name.starts_with(name), "{}", case.name);
                let work = Work::of(&op, &*backend)?;
                assert!(work.bytes > 0.0 && work.flops >= 0.0, "{}", case.name);
                let timed = Timed::new(&case, (rig, op), &backend)?;
                assert!(timed.sample()? > Duration::ZERO);
            }
        }
        Ok(())
    }
}
