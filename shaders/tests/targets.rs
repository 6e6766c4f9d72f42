//! Every kernel in every variant becomes SPIR-V, MSL and HLSL, without a GPU.

use longwave_shaders::{BindingKind, KERNELS, Kernel, kernel, layout_source};
use naga::back::{PipelineConstants, hlsl, msl, pipeline_constants::process_overrides, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ShaderStage};

/// Parses and validates with exactly the capabilities that the kernel says it needs.
fn validated(kernel: &Kernel) -> (Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(kernel.source).expect("the build parsed it");
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SUBGROUP, kernel.needs.subgroup);
    capabilities.set(Capabilities::SHADER_FLOAT16, kernel.needs.f16);
    let matrices = Capabilities::COOPERATIVE_MATRIX | Capabilities::SUBGROUP_BARRIER;
    capabilities.set(matrices, kernel.needs.cooperative);
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .expect("the build validated it");
    (module, info)
}

#[test]
fn every_kernel_is_written_for_every_target() {
    for kernel in KERNELS {
        let (module, info) = validated(kernel);
        let entry = Some((ShaderStage::Compute, kernel.entry));
        let (module, info) =
            process_overrides(&module, &info, entry, &PipelineConstants::default())
                .expect("overrides have defaults");

        let options = spv::Options {
            lang_version: (1, 3),
            ..Default::default()
        };
        let words = spv::write_vec(&module, &info, &options, None)
            .unwrap_or_else(|error| panic!("{} as SPIR-V: {error}", kernel.name));
        assert!(words.len() > 100, "{}", kernel.name);
        if kernel.needs.cooperative {
            // HLSL has no matrices, and the devices that have them are Vulkan's.
            continue;
        }

        let options = msl::Options {
            lang_version: (2, 4),
            fake_missing_bindings: true,
            ..Default::default()
        };
        let (text, _) = msl::write_string(&module, &info, &options, &Default::default())
            .unwrap_or_else(|error| panic!("{} as MSL: {error}", kernel.name));
        assert!(text.contains("kernel void"), "{}", kernel.name);

        let options = hlsl::Options {
            shader_model: hlsl::ShaderModel::V6_0,
            fake_missing_bindings: true,
            ..Default::default()
        };
        let (mut text, pipeline) = (String::new(), hlsl::PipelineOptions::default());
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|error| panic!("{} as HLSL: {error}", kernel.name));
        assert!(text.contains("numthreads"), "{}", kernel.name);
    }
}

/// Kernels with subgroups that have no twin, and what serves devices without.
const OTHERWISE: [(&str, &str); 3] = [
    ("attend_head", "attend_split"),
    ("attend_row", "attend_split"),
    // Tokens are restored, and attended to then.
    ("attend_stored", "unpack"),
];

#[test]
fn every_kernel_with_subgroups_has_a_twin_without() {
    let with: Vec<_> = KERNELS
        .iter()
        .filter(|kernel| kernel.needs.subgroup && !kernel.needs.cooperative)
        .collect();
    assert!(!with.is_empty());
    for kernel_with in with {
        if OTHERWISE.iter().any(|(name, _)| *name == kernel_with.name) {
            continue;
        }
        let twin = kernel_with
            .name
            .replace("reduce_subgroup", "reduce_workgroup")
            .replace("team_subgroup", "team_workgroup")
            .replace("crew_subgroup", "crew_workgroup");
        let twin = kernel(&twin).unwrap_or_else(|| panic!("{} has no twin", kernel_with.name));
        assert!(!twin.needs.subgroup, "{}", twin.name);
        assert_eq!(twin.bindings, kernel_with.bindings, "{}", twin.name);
        assert_eq!(twin.params, kernel_with.params, "{}", twin.name);
    }
}

#[test]
fn names_are_unique_and_parameters_come_first() {
    for (index, kernel) in KERNELS.iter().enumerate() {
        assert!(
            KERNELS[..index]
                .iter()
                .all(|other| other.name != kernel.name)
        );
        let params = kernel
            .binding("params")
            .map(|binding| (binding.index, binding.kind));
        assert_eq!(params, Some((0, BindingKind::Params)), "{}", kernel.name);
        assert_eq!(kernel.params.len(), kernel.params_words as usize);
        assert!(
            kernel
                .bindings
                .iter()
                .any(|binding| binding.kind == BindingKind::ReadWrite)
        );
    }
}

#[test]
fn every_weight_type_has_every_kernel_of_weights() {
    for weight in ["f16", "q4", "q8g32", "q8g16", "q8g32m"] {
        for name in [
            format!("embed[weight_{weight}]"),
            format!("matmul_row[weight_{weight},team_subgroup]"),
            format!("matmul_row[weight_{weight},team_workgroup]"),
            format!("matmul_tile[weight_{weight}]"),
            format!("matmul_one[codes_{weight},input_plain,crew_subgroup]"),
            format!("gate_up_silu_one[codes_{weight},crew_subgroup]"),
            format!("qkv_rope_append_one[codes_{weight},crew_subgroup]"),
            format!("qkv_rope_append_whole[codes_{weight},crew_subgroup]"),
        ] {
            assert!(kernel(&name).is_some(), "{name}");
        }
    }
}

#[test]
fn the_layout_parses_by_itself() {
    let module = naga::front::wgsl::parse_str(layout_source()).expect("valid WGSL");
    let names: Vec<_> = module
        .types
        .iter()
        .filter_map(|(_, ty)| ty.name.as_deref())
        .collect();
    assert!(names.contains(&"RowDesc") && names.contains(&"ViewDesc"));
}
