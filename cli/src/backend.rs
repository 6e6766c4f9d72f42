//! The choice of a backend and a device: the only file of the project's engine and program that names backends.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use longwave_contract::{Backend, DeviceKind};
use longwave_cpu::CpuBackend;
use longwave_cuda::{CudaBackend, CudaOptions};
use longwave_runtime::hub::kernel_directory;
use longwave_wgpu::{DeviceInfo, WgpuBackend, WgpuOptions};

use crate::args::DeviceArguments;
use crate::output::Notes;

/// The name of the CPU backend's one device.
const CPU_DEVICE: &str = "cpu";

/// What `--backend` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// An NVIDIA GPU through CUDA, else a GPU through wgpu, else the processor
    #[default]
    Auto,
    /// The processor
    Cpu,
    /// An NVIDIA GPU
    Cuda,
    /// A GPU through wgpu; a software adapter where there is no other
    Wgpu,
}

/// A device that can be chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The CUDA device of this index.
    Cuda(usize),
    /// The wgpu adapter of this index.
    Wgpu(usize),
}

/// A device, and why it was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The device.
    pub device: Device,
    /// Its name.
    pub name: String,
    /// What led to it.
    pub why: String,
    /// Whether the user should be told, since it is not just what was asked for.
    pub notable: bool,
}

impl Choice {
    /// Chooses by the flags among the devices of this machine.
    ///
    /// # Errors
    /// No device answers to the flags.
    pub fn by(arguments: &DeviceArguments) -> Result<Choice> {
        Choice::of(arguments.backend, arguments.device.as_deref())
    }

    /// As [`Choice::by`], without the flags.
    ///
    /// # Errors
    /// No device answers to what is asked for.
    pub fn of(backend: BackendName, device: Option<&str>) -> Result<Choice> {
        choose(backend, device, &Machine::asked(backend))
    }

    /// The name of the chosen backend.
    pub fn backend(&self) -> &'static str {
        match self.device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Wgpu(_) => "wgpu",
        }
    }

    /// Opens the device, and says which one it is where that is not just what was asked for.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self, notes: &Notes) -> Result<Arc<dyn Backend>> {
        if self.notable {
            notes.note(&self.why);
        }
        match self.device {
            Device::Cpu => Ok(Arc::new(CpuBackend::new())),
            Device::Cuda(index) => {
                let options = CudaOptions {
                    device: Some(index.to_string()),
                    kernels: kernel_directory().ok(),
                    ..Default::default()
                };
                let backend = CudaBackend::open(&options)
                    .with_context(|| format!("{} cannot be used", self.name))?;
                Ok(Arc::new(backend))
            }
            Device::Wgpu(index) => {
                let options = WgpuOptions {
                    device: Some(index.to_string()),
                    allow_software: true,
                    kernels: kernel_directory().ok(),
                    ..Default::default()
                };
                let backend = WgpuBackend::open(&options)
                    .with_context(|| format!("{} cannot be used", self.name))?;
                Ok(Arc::new(backend))
            }
        }
    }
}

/// The devices of this machine that a choice is made among.
#[derive(Debug)]
struct Machine {
    /// Those of CUDA, or why there are none.
    cuda: Result<Vec<longwave_cuda::DeviceInfo>, String>,
    /// Those of wgpu.
    adapters: Vec<DeviceInfo>,
}

impl Machine {
    /// Asks for what a backend's choice depends on, and no more: each interface takes its time to start.
    fn asked(backend: BackendName) -> Self {
        let none = || Err("not asked for".to_owned());
        let (cuda, wgpu) = match backend {
            BackendName::Auto => (longwave_cuda::devices(), true),
            BackendName::Cpu => (none(), false),
            BackendName::Cuda => (longwave_cuda::devices(), false),
            BackendName::Wgpu => (none(), true),
        };
        let adapters = if wgpu {
            longwave_wgpu::devices()
        } else {
            Vec::new()
        };
        Machine { cuda, adapters }
    }
}

/// What `devices` tells about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The backend that runs models on it.
    pub backend: &'static str,
    /// What `--device` calls it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What kind of device it is.
    pub kind: &'static str,
    /// Its driver.
    pub driver: String,
    /// Bytes that are free, where that is known.
    pub memory: Option<u64>,
    /// Sizes that bound what it does: key, words, bytes.
    pub limits: Vec<(&'static str, &'static str, u64)>,
}

/// Every device of this machine, the processor first, then those of CUDA and of wgpu in the order of their indices; and why a backend has none.
pub fn devices() -> (Vec<Listed>, Vec<(&'static str, String)>) {
    let cpu = CpuBackend::new();
    let caps = cpu.caps();
    let cpu = Listed {
        backend: caps.backend,
        id: CPU_DEVICE.to_owned(),
        name: caps.device.clone(),
        kind: caps.kind.name(),
        driver: caps.driver.clone(),
        memory: caps.memory,
        limits: Vec::new(),
    };
    let adapters = longwave_wgpu::devices().into_iter().map(|info| Listed {
        backend: "wgpu",
        id: info.index.to_string(),
        kind: info.kind.name(),
        driver: format!("{}, {}", info.interface, info.driver),
        memory: info.memory,
        limits: vec![
            ("binding_limit", "largest binding", info.binding_limit),
            ("buffer_limit", "largest buffer", info.buffer_limit),
            (
                "workgroup_memory",
                "workgroup memory",
                u64::from(info.workgroup_memory),
            ),
        ],
        name: info.name,
    });
    let (cuda, missing) = match longwave_cuda::devices() {
        Ok(found) => (found, Vec::new()),
        Err(why) => (Vec::new(), vec![("cuda", why)]),
    };
    let cuda = cuda.into_iter().map(|info| Listed {
        backend: "cuda",
        id: info.index.to_string(),
        kind: match info.integrated {
            true => DeviceKind::Integrated.name(),
            false => DeviceKind::Discrete.name(),
        },
        driver: match &info.unusable {
            Some(why) => format!("{}, not usable: {why}", info.driver),
            None => info.driver.clone(),
        },
        memory: longwave_cuda::free_memory(info.index),
        limits: vec![(
            "workgroup_memory",
            "workgroup memory",
            u64::from(info.shared_memory),
        )],
        name: info.name,
    });
    let listed = std::iter::once(cpu).chain(cuda).chain(adapters).collect();
    (listed, missing)
}

fn choose(backend: BackendName, device: Option<&str>, machine: &Machine) -> Result<Choice> {
    let cpu = |why: String, notable| Choice {
        device: Device::Cpu,
        name: CPU_DEVICE.to_owned(),
        why,
        notable,
    };
    let adapters = &machine.adapters;
    let asks_for_cpu = device.is_some_and(|device| device.eq_ignore_ascii_case(CPU_DEVICE));
    match backend {
        BackendName::Cpu => match device {
            Some(other) if !asks_for_cpu => {
                bail!("--device {other}: the cpu backend has one device, `cpu`")
            }
            _ => Ok(cpu("cpu, as asked for".into(), false)),
        },
        BackendName::Auto if asks_for_cpu => Ok(cpu("cpu, as asked for".into(), false)),
        BackendName::Auto => auto(device, machine, cpu),
        BackendName::Cuda => {
            let found = machine.cuda.as_deref();
            let found = found.map_err(|why| anyhow::anyhow!("cuda: {why}"))?;
            let info = longwave_cuda::choose(found, device);
            let info = info.map_err(|why| anyhow::anyhow!("cuda: {why}"))?;
            Ok(cuda(info, "cuda, as asked for".into(), false))
        }
        BackendName::Wgpu => {
            let found = best(&matching(device, adapters)?, adapters);
            let info = found
                .and_then(|index| adapters.get(index))
                .context("wgpu finds no adapter: is a graphics driver installed?")?;
            if is_hardware(info) {
                return Ok(wgpu(info, "wgpu, as asked for".into(), false));
            }
            let why = format!(
                "wgpu runs on a software adapter, {}: --backend cpu is usually faster",
                info.name
            );
            Ok(wgpu(info, why, true))
        }
    }
}

/// The first that fits of CUDA's devices, wgpu's hardware, and the processor where no device is named.
fn auto(
    device: Option<&str>,
    machine: &Machine,
    cpu: impl Fn(String, bool) -> Choice,
) -> Result<Choice> {
    let adapters = &machine.adapters;
    let mut aside = String::new();
    if let Ok(found) = &machine.cuda {
        match longwave_cuda::choose(found, device) {
            Ok(info) => {
                let why = format!("auto picks cuda: {} ({})", info.name, info.driver);
                return Ok(cuda(info, why, true));
            }
            Err(why) if device.is_none() => aside = format!("; cuda cannot be used: {why}"),
            // It may be an adapter's.
            Err(_) => {}
        }
    }
    let matching = matching(device, adapters)?;
    let hardware: Vec<usize> = matching
        .iter()
        .copied()
        .filter(|&index| is_hardware(&adapters[index]))
        .collect();
    let software = names(&matching, adapters);
    match (best(&hardware, adapters), device) {
        (Some(index), _) => {
            let info = &adapters[index];
            let why = format!(
                "auto picks wgpu: {} ({}, {}){aside}",
                info.name,
                info.kind.name(),
                info.interface
            );
            Ok(wgpu(info, why, true))
        }
        (None, Some(device)) => {
            bail!(
                "--device {device}: {software} is a software adapter, which only --backend wgpu takes"
            )
        }
        (None, None) if adapters.is_empty() => {
            let why = format!("auto picks cpu: wgpu finds no GPU{aside}");
            Ok(cpu(why, true))
        }
        (None, None) => {
            let why = format!(
                "auto picks cpu: there is no GPU, only a software adapter ({software}){aside}"
            );
            Ok(cpu(why, true))
        }
    }
}

fn cuda(info: &longwave_cuda::DeviceInfo, why: String, notable: bool) -> Choice {
    Choice {
        device: Device::Cuda(info.index),
        name: info.name.clone(),
        why,
        notable,
    }
}

fn wgpu(info: &DeviceInfo, why: String, notable: bool) -> Choice {
    Choice {
        device: Device::Wgpu(info.index),
        name: info.name.clone(),
        why,
        notable,
    }
}

fn is_hardware(info: &DeviceInfo) -> bool {
    !matches!(info.kind, DeviceKind::Software | DeviceKind::Cpu)
}

/// The adapters that a `--device` means: the one of that index, or those whose names contain the text, letters in any case.
fn matching(device: Option<&str>, adapters: &[DeviceInfo]) -> Result<Vec<usize>> {
    let all = 0..adapters.len();
    let Some(device) = device else {
        return Ok(all.collect());
    };
    if let Some(index) = device.parse().ok().filter(|index| all.contains(index)) {
        return Ok(vec![index]);
    }
    let wanted = device.to_lowercase();
    let found: Vec<usize> = all
        .clone()
        .filter(|&index| adapters[index].name.to_lowercase().contains(&wanted))
        .collect();
    if found.is_empty() {
        let known = if adapters.is_empty() {
            "none".to_owned()
        } else {
            names(&all.collect::<Vec<_>>(), adapters)
        };
        bail!("--device {device}: wgpu has no such adapter; it has {known}");
    }
    Ok(found)
}

/// The adapter of the best kind, the first of several.
fn best(indices: &[usize], adapters: &[DeviceInfo]) -> Option<usize> {
    indices
        .iter()
        .copied()
        .min_by_key(|&index| (adapters[index].kind, index))
}

fn names(indices: &[usize], adapters: &[DeviceInfo]) -> String {
    let names: Vec<String> = indices
        .iter()
        .map(|&index| format!("{index}: {}", adapters[index].name))
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: usize, name: &str, kind: DeviceKind) -> DeviceInfo {
        DeviceInfo {
            index,
            name: name.into(),
            kind,
            driver: "a driver".into(),
            interface: "vulkan",
            binding_limit: 1 << 30,
            buffer_limit: 1 << 30,
            memory: None,
            workgroup_memory: 32_768,
        }
    }

    fn laptop() -> [DeviceInfo; 4] {
        [
            adapter(0, "llvmpipe (LLVM)", DeviceKind::Software),
            adapter(1, "Xe Graphics", DeviceKind::Integrated),
            adapter(2, "GeForce 4090", DeviceKind::Discrete),
            adapter(3, "GeForce 3060", DeviceKind::Discrete),
        ]
    }

    /// A machine with these adapters, and no CUDA.
    fn machine(adapters: &[DeviceInfo]) -> Machine {
        Machine {
            cuda: Err("libcuda not found".into()),
            adapters: adapters.to_vec(),
        }
    }

    fn cuda_device(unusable: Option<&str>) -> longwave_cuda::DeviceInfo {
        longwave_cuda::DeviceInfo {
            index: 0,
            name: "NVIDIA GeForce 4090".into(),
            driver: "CUDA 13.0".into(),
            capability: 89,
            integrated: false,
            shared_memory: 101_376,
            unusable: unusable.map(Into::into),
        }
    }

    fn pick(backend: BackendName, device: Option<&str>, adapters: &[DeviceInfo]) -> Device {
        choose(backend, device, &machine(adapters))
            .expect("there is one")
            .device
    }

    fn refusal(backend: BackendName, device: Option<&str>, adapters: &[DeviceInfo]) -> String {
        choose(backend, device, &machine(adapters))
            .expect_err("there is none")
            .to_string()
    }

    #[test]
    fn auto_takes_the_best_hardware_and_says_so() -> Result<()> {
        let choice = choose(BackendName::Auto, None, &machine(&laptop()))?;
        assert_eq!(
            (choice.device.clone(), choice.notable),
            (Device::Wgpu(2), true)
        );
        assert!(
            choice.why.contains("4090") && choice.why.contains("discrete"),
            "{}",
            choice.why
        );
        Ok(())
    }

    #[test]
    fn auto_prefers_cuda_where_it_can_be_used() -> Result<()> {
        let mut machine = Machine {
            cuda: Ok(vec![cuda_device(None)]),
            adapters: laptop().to_vec(),
        };
        let choice = choose(BackendName::Auto, None, &machine)?;
        assert_eq!((choice.device, choice.notable), (Device::Cuda(0), true));
        assert!(choice.why.contains("4090"), "{}", choice.why);
        let other = choose(BackendName::Auto, Some("3060"), &machine)?;
        assert_eq!(other.device, Device::Wgpu(3));
        machine.cuda = Ok(vec![cuda_device(Some("no compiler"))]);
        let choice = choose(BackendName::Auto, None, &machine)?;
        assert_eq!(choice.device, Device::Wgpu(2));
        assert!(choice.why.contains("no compiler"), "{}", choice.why);
        let error = choose(BackendName::Cuda, None, &machine).expect_err("it cannot be used");
        assert!(error.to_string().contains("no compiler"), "{error}");
        Ok(())
    }

    #[test]
    fn cuda_says_what_is_missing() {
        let error = refusal(BackendName::Cuda, None, &[]);
        assert_eq!(error, "cuda: libcuda not found");
    }

    #[test]
    fn auto_never_takes_a_software_adapter() -> Result<()> {
        let only_software = &laptop()[..1];
        let choice = choose(BackendName::Auto, None, &machine(only_software))?;
        assert_eq!((choice.device, choice.notable), (Device::Cpu, true));
        assert!(choice.why.contains("llvmpipe"), "{}", choice.why);
        assert_eq!(pick(BackendName::Auto, None, &[]), Device::Cpu);
        assert!(refusal(BackendName::Auto, Some("llvm"), &laptop()).contains("--backend wgpu"));
        Ok(())
    }

    #[test]
    fn wgpu_falls_back_to_software_and_says_so() -> Result<()> {
        assert_eq!(pick(BackendName::Wgpu, None, &laptop()), Device::Wgpu(2));
        let choice = choose(BackendName::Wgpu, None, &machine(&laptop()[..1]))?;
        assert_eq!((choice.device, choice.notable), (Device::Wgpu(0), true));
        assert!(choice.why.contains("software"), "{}", choice.why);
        assert!(refusal(BackendName::Wgpu, None, &[]).contains("no adapter"));
        Ok(())
    }

    #[test]
    fn a_device_is_an_index_or_a_part_of_a_name() {
        let auto = |device| pick(BackendName::Auto, Some(device), &laptop());
        assert_eq!(auto("1"), Device::Wgpu(1));
        assert_eq!(auto("3060"), Device::Wgpu(3));
        assert_eq!(auto("geforce"), Device::Wgpu(2));
        assert_eq!(auto("CPU"), Device::Cpu);
        assert_eq!(
            pick(BackendName::Wgpu, Some("0"), &laptop()),
            Device::Wgpu(0)
        );
        let error = refusal(BackendName::Wgpu, Some("no such device"), &laptop());
        assert!(
            error.contains("no such device") && error.contains("0: llvmpipe"),
            "{error}"
        );
        assert!(refusal(BackendName::Auto, Some("7"), &[]).contains("none"));
    }

    #[test]
    fn the_cpu_has_one_device() {
        assert_eq!(pick(BackendName::Cpu, None, &[]), Device::Cpu);
        assert_eq!(pick(BackendName::Cpu, Some("cpu"), &[]), Device::Cpu);
        assert!(refusal(BackendName::Cpu, Some("0"), &laptop()).contains("--device 0"));
    }
}
