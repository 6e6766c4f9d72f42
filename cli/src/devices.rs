//! `longwave devices`: what models can run on.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::backend::{self, BackendName, Choice, Listed};
use crate::output::{Output, one_line};
use crate::report::{block, bytes};

/// List the devices that models can run on.
#[derive(Args, Debug)]
pub struct DevicesArguments {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl DevicesArguments {
    /// Does it.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn execute(&self) -> Result<ExitCode> {
        let (devices, missing) = backend::devices();
        let choice = Choice::of(BackendName::Auto, None)?;
        let mut output = Output::stdout();
        if self.json {
            let list: Vec<Value> = devices.iter().map(as_json).collect();
            let auto =
                json!({ "backend": choice.backend(), "device": choice.name, "why": choice.why });
            let missing = missing
                .iter()
                .map(|(backend, why)| json!({ "backend": backend, "why": why }));
            let missing: Vec<Value> = missing.collect();
            output.json(&json!({ "devices": list, "missing": missing, "auto": auto }))?;
            return Ok(ExitCode::SUCCESS);
        }
        for device in &devices {
            output.line(format_args!(
                "{} {}: {}",
                device.backend,
                device.id,
                one_line(&device.name)
            ))?;
            for line in describe(device).lines() {
                output.line(format_args!("  {line}"))?;
            }
        }
        for (backend, why) in &missing {
            output.line(format_args!("{backend}: {why}"))?;
        }
        output.line(&choice.why)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn describe(device: &Listed) -> String {
    let memory = device.memory.map_or_else(
        || "unknown".to_owned(),
        |free| format!("{} free", bytes(free)),
    );
    let mut lines = vec![
        ("kind", device.kind.to_owned()),
        ("driver", one_line(&device.driver)),
        ("memory", memory),
    ];
    lines.extend(
        device
            .limits
            .iter()
            .map(|&(_, words, limit)| (words, bytes(limit))),
    );
    block(&lines)
}

fn as_json(device: &Listed) -> Value {
    let limits: Map<String, Value> = device
        .limits
        .iter()
        .map(|&(key, _, limit)| (key.to_owned(), limit.into()))
        .collect();
    json!({
        "backend": device.backend,
        "id": device.id,
        "name": device.name,
        "kind": device.kind,
        "driver": device.driver,
        "memory": device.memory,
        "limits": limits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu() -> Listed {
        Listed {
            backend: "wgpu",
            id: "0".into(),
            name: "A GPU".into(),
            kind: "discrete",
            driver: "vulkan,\n1.2".into(),
            memory: None,
            limits: vec![("buffer_limit", "largest buffer", 2 << 30)],
        }
    }

    #[test]
    fn a_device_is_described_for_people() {
        let expected = "kind            discrete\n\
                        driver          vulkan, 1.2\n\
                        memory          unknown\n\
                        largest buffer  2.00 GiB";
        assert_eq!(describe(&gpu()), expected);
        let known = describe(&Listed {
            memory: Some(3 << 30),
            ..gpu()
        });
        assert!(known.contains("3.00 GiB free"), "{known}");
    }

    #[test]
    fn a_device_is_described_for_programs() {
        let value = as_json(&gpu());
        assert_eq!(value["limits"], json!({ "buffer_limit": 2u64 << 30 }));
        assert_eq!(
            (&value["memory"], &value["id"]),
            (&Value::Null, &json!("0"))
        );
    }
}
