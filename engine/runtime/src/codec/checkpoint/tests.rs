use super::*;
use crate::format::GgmlType;
use crate::format::testing::safetensors_bytes;

#[test]
fn tensors_are_told_by_their_names() {
    let part = |name| part_of(name).map(|part| (part.layer, part.encodes, part.rest));
    let of = "model.layers.12.self_attn.compress_down.w12.weight";
    assert_eq!(part(of), Some((Some(12), true, "w12.weight")));
    assert_eq!(part("compress_up.weight"), Some((None, false, "weight")));
    assert_eq!(
        part("model.layers.1.self_attn.k_compress_down.weight"),
        None
    );
    assert_eq!(part("model.layers.1.self_attn.q_proj.weight"), None);
    assert_eq!(part("compress_up"), None);
}

/// A model of two layers, with rows of 64 elements.
fn config() -> ModelConfig {
    let text = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "vocab_size": 300, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true}"#;
    ModelConfig::from_json("tiny", text).expect("it is a model")
}

/// A tensor's name and shape.
type Named = (&'static str, &'static [u64]);

/// A checkpoint of these tensors, all of whose numbers are a half, and its settings.
fn checkpoint(tensors: &[Named], settings: &str) -> tempfile::TempDir {
    checkpoint_with(tensors, settings, 0.5)
}

/// The same with another number in biases.
fn checkpoint_with(tensors: &[Named], settings: &str, bias: f32) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let numbers = |shape: &[u64]| {
        let number = if shape.len() == 1 { bias } else { 0.5f32 };
        let count = shape.iter().product::<u64>();
        number.to_le_bytes().repeat(count as usize)
    };
    let data: Vec<Vec<u8>> = tensors.iter().map(|(_, shape)| numbers(shape)).collect();
    let listed: Vec<(&str, &[u64], GgmlType, &[u8])> = tensors
        .iter()
        .zip(&data)
        .map(|((name, shape), data)| (*name, *shape, GgmlType::F32, &data[..]))
        .collect();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(directory.path().join(name), bytes).expect("it can be written");
    };
    write("model.safetensors", &safetensors_bytes(&listed));
    write("config.json", settings.as_bytes());
    directory
}

const LAYER: [Named; 2] = [
    ("model.layers.1.self_attn.compress_down.weight", &[32, 64]),
    ("model.layers.1.self_attn.compress_up.weight", &[64, 32]),
];

#[test]
fn a_layer_takes_its_matrices() {
    let settings = r#"{"cluster_ratio": 0.125, "seq_chunk_size": 2, "kv_compressed_size": 32}"#;
    let directory = checkpoint(&LAYER, settings);
    let options = CheckpointOptions {
        latents: LatentFormat::Q4,
        ..CheckpointOptions::default()
    };
    let codecs = open_checkpoint(directory.path(), &config(), &options).expect("it is sound");
    assert!(codecs.len() == 2 && codecs[0].is_none());
    let codec = codecs[1].as_ref().expect("layer 1 has one");
    let shape = codec.shape();
    let references = ReferenceShape {
        stride: 8,
        neighbours: 2,
    };
    assert_eq!(shape.references, Some(references));
    assert_eq!((shape.rank, shape.code_bits), (32, 128));
    let parameters = codec.parameters();
    let up = parameters.iter().find(|parameter| parameter.name == "up");
    let up = up.expect("it has a decoder");
    assert_eq!((up.rows, up.cols, up.bytes[1]), (64, 32, 0x38));
    assert!(is_checkpoint(&directory.path().join("model.safetensors")).expect("it is sound"));
    // One codec for all layers.
    let shared: [Named; 2] = [
        ("compress_down.weight", &[32, 64]),
        ("compress_up.weight", &[64, 32]),
    ];
    let directory = checkpoint(&shared, "{}");
    let options = CheckpointOptions::default();
    let codecs = open_checkpoint(directory.path(), &config(), &options).expect("it is sound");
    let strides = codecs.iter().flatten();
    let strides = strides.map(|codec| codec.shape().references.map(|found| found.stride));
    assert_eq!(strides.collect::<Vec<_>>(), [Some(10), Some(10)]);
}

#[test]
fn what_does_not_fit_is_named() {
    let [down, up] = LAYER;
    let asked = CheckpointOptions {
        stride: Some(16),
        ..CheckpointOptions::default()
    };
    let plain = CheckpointOptions::default();
    let split = "model.layers.1.self_attn.k_compress_down.weight";
    let astray = "model.layers.x.self_attn.compress_down.weight";
    let beyond = "model.layers.2.self_attn.compress_down.weight";
    let cases: [(&[Named], &str, CheckpointOptions, &str); 15] = [
        (
            &[down, up],
            r#"{"cluster_ratio": 0.1}"#,
            asked,
            "16 is asked",
        ),
        (
            &[down, up],
            r#"{"cluster_ratio": 0.9}"#,
            plain,
            "every 1 tokens",
        ),
        (
            &[down, up],
            r#"{"cluster_metric": "dot"}"#,
            plain,
            "cluster_metric",
        ),
        (
            &[down, up],
            r#"{"num_hidden_layers": 32}"#,
            plain,
            "as the model has",
        ),
        (
            &[down, up],
            r#"{"kv_compressed_size": 16}"#,
            plain,
            "not 32 as its matrices have",
        ),
        (&[down, up], "{", plain, "config.json"),
        (
            &[down, up],
            r#"{"cluster_ratio": 0.1, "deltakv_center_ratio": 0.05}"#,
            plain,
            "that is 10, and 20",
        ),
        (
            &[down, up],
            r#"{"compressor_down_type": "mlp_swiglu"}"#,
            plain,
            "linear as the tensors",
        ),
        (&[down, up], r#"{"seq_chunk_size": "4"}"#, plain, "a number"),
        (&[(astray, &[32, 64])], "{}", plain, "of no layer"),
        (&[down], "{}", plain, "`compress_up` of layer 1"),
        (&[(down.0, &[32, 128]), up], "{}", plain, "[32, 128]"),
        (&[down, (up.0, &[64, 64])], "{}", plain, "expected [64, 32]"),
        (&[(split, &[32, 64])], "{}", plain, "keys and values apart"),
        (&[(beyond, &[32, 64])], "{}", plain, "the model has 2"),
    ];
    for (tensors, settings, options, expected) in cases {
        let directory = checkpoint(tensors, settings);
        let error = open_checkpoint(directory.path(), &config(), &options);
        let error = error.map(|_| ()).expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let empty = tempfile::tempdir().expect("a directory");
    let error = open_checkpoint(empty.path(), &config(), &plain).map(|_| ());
    let error = error.expect_err("it is empty").to_string();
    assert!(error.contains("*.safetensors"), "{error}");
}

/// Encoder and decoder of all layers: as published, and as the paper has them, with inner layers of 40 elements.
const LIGHT: [Named; 3] = [
    ("compress_down.w12.weight", &[80, 64]),
    ("compress_down.w3.weight", &[32, 40]),
    ("compress_up.weight", &[64, 32]),
];
const GELU: [Named; 8] = [
    ("compress_down.0.weight", &[40, 64]),
    ("compress_down.0.bias", &[40]),
    ("compress_down.2.weight", &[32, 40]),
    ("compress_down.2.bias", &[32]),
    ("compress_up.0.weight", &[40, 32]),
    ("compress_up.0.bias", &[40]),
    ("compress_up.2.weight", &[64, 40]),
    ("compress_up.2.bias", &[64]),
];

/// The codec of the first layer.
fn opened(directory: &tempfile::TempDir) -> Result<Arc<dyn Codec>, String> {
    let options = CheckpointOptions::default();
    let codecs = open_checkpoint(directory.path(), &config(), &options);
    let first = codecs
        .map_err(|error| error.to_string())?
        .into_iter()
        .next();
    Ok(first.flatten().expect("layer 0 has one"))
}

/// The values of a parameter, without padding; `None` where there is no such parameter.
fn values(codec: &Arc<dyn Codec>, name: &str) -> Option<Vec<f32>> {
    let parameters = codec.parameters();
    let found = parameters.iter().find(|found| found.name == name)?;
    let pitch = found.dtype.row_bytes(found.cols) as usize;
    let row = |row: &[u8]| -> Vec<f32> {
        let halves = row.chunks(2).map(|half| [half[0], half[1]]);
        let values: Vec<f32> = match found.dtype {
            longwave_contract::DType::F16 => halves
                .map(|half| half::f16::from_le_bytes(half).to_f32())
                .collect(),
            _ => bytemuck::pod_collect_to_vec(row),
        };
        values[..found.cols as usize].to_vec()
    };
    Some(found.bytes.chunks(pitch).flat_map(row).collect())
}

/// What coded tokens get besides; the row above, a mean, is zero.
fn offset(codec: &Arc<dyn Codec>) -> Option<Vec<f32>> {
    let both = values(codec, "mean and offset")?;
    let (mean, offset) = both.split_at(64);
    assert_eq!(mean, [0.0; 64]);
    Some(offset.to_vec())
}

#[test]
fn networks_take_their_matrices() {
    let settings = r#"{"compressor_down_type": "mlp_swiglu", "compressor_up_type": "linear", "compressor_up_intermediate_size": -1,
        "compressor_down_intermediate_size": 40, "compressor_intermediate_size": 3072, "kv_compressed_size": 32}"#;
    let codec = opened(&checkpoint(&LIGHT, settings)).expect("it is sound");
    assert_eq!(codec.shape().rank, 32);
    assert_eq!(codec.inner().encode, [128, 128, 64]);
    assert_eq!(codec.inner().restore, [0; 3]);
    // Both halves are padded from 40 rows to 64, and so are the columns of the last matrix.
    let padded = |index: usize, period: usize| if index % period < 40 { 0.5 } else { 0.0 };
    let inner = values(&codec, "down.inner").expect("it has an inner layer");
    let expected = (0..128).flat_map(|row| vec![padded(row, 64); 64]);
    assert_eq!(inner, expected.collect::<Vec<f32>>());
    let outer = values(&codec, "down").expect("it has a last matrix");
    let expected = (0..32 * 64).map(|at| padded(at, 64));
    assert_eq!(outer, expected.collect::<Vec<f32>>());
    assert_eq!(values(&codec, "down.bias"), Some(vec![0.0; 128]));
    assert_eq!(offset(&codec), None);

    let settings = r#"{"compressor_down_type": "auto", "use_nonlinear_compressor": true, "compressor_intermediate_size": 40}"#;
    let codec = opened(&checkpoint(&GELU, settings)).expect("it is sound");
    assert_eq!(codec.inner().encode, [64; 3]);
    assert_eq!(codec.inner().restore, [64, 0, 64]);
    // What the decoder gives for zeros: gelu(0.5) is 0.345731.
    let constant = offset(&codec).expect("the decoder has biases");
    assert!(
        constant.iter().all(|value| (value - 7.414_62).abs() < 1e-4),
        "{}",
        constant[0]
    );
    // Any of the biases may be missing.
    let [a, _, c, _, e, _, g, _] = GELU;
    let codec = opened(&checkpoint(&[a, c, e, g], "{}")).expect("it is sound");
    assert_eq!(offset(&codec), None);
    // A matrix with a bias.
    let [w12, w3, up] = LIGHT;
    let biased = [w12, w3, up, ("compress_up.bias", &[64][..])];
    let codec = opened(&checkpoint(&biased, "{}")).expect("it is sound");
    assert_eq!(offset(&codec), Some(vec![0.5; 64]));
}

#[test]
fn networks_that_do_not_fit_are_named() {
    // Each replaces the tensor of its name, or comes beside the others; a shape of nothing takes one away.
    let changed = |tensors: &[Named], (name, shape): Named| -> Vec<Named> {
        let others = tensors.iter().copied().filter(|other| other.0 != name);
        let new = (!shape.is_empty()).then_some((name, shape));
        others.chain(new).collect()
    };
    let cases: [(&[Named], Named, &str); 15] = [
        (
            &LIGHT,
            ("compress_down.w12.weight", &[81, 64]),
            "expected [an even number up to 131070, 64]",
        ),
        (&LIGHT, ("compress_down.w12.weight", &[80, 32]), "[80, 32]"),
        (
            &LIGHT,
            ("compress_down.w12.weight", &[2, 40, 64]),
            "[2, 40, 64]",
        ),
        (
            &LIGHT,
            ("compress_down.w12.weight", &[]),
            "`w12.weight`: is missing",
        ),
        (
            &LIGHT,
            ("compress_down.w3.weight", &[]),
            "`w3.weight`: is missing",
        ),
        (
            &LIGHT,
            ("compress_down.w3.weight", &[32, 80]),
            "expected [a multiple of 32 up to 64, 40]",
        ),
        (&LIGHT, ("compress_down.w3.weight", &[30, 40]), "[30, 40]"),
        (&LIGHT, ("compress_down.w12.bias", &[40]), "expected [80]"),
        (&LIGHT, ("compress_down.w3.bias", &[1, 32]), "expected [32]"),
        (
            &LIGHT,
            ("compress_down.0.weight", &[40, 64]),
            "no network is known",
        ),
        (&LIGHT, ("compress_up.bias", &[32]), "expected [64]"),
        (&GELU, ("compress_down.0.bias", &[64]), "expected [40]"),
        (
            &GELU,
            ("compress_down.2.weight", &[32, 64]),
            "compress_down.2.weight`: has the shape [32, 64]",
        ),
        (
            &GELU,
            ("compress_up.0.weight", &[40, 64]),
            "expected [1 to 65535, 32]",
        ),
        (
            &GELU,
            ("compress_up.2.weight", &[32, 40]),
            "expected [64, 40]",
        ),
    ];
    for (tensors, change, expected) in cases {
        let found = opened(&checkpoint(&changed(tensors, change), "{}"));
        let error = found.map(|_| ()).expect_err(expected);
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let settings: [(&[Named], &str, &str); 8] = [
        (
            &LIGHT,
            r#"{"compressor_down_type": "mlp_gelu"}"#,
            "mlp_swiglu as the tensors of all layers are",
        ),
        (
            &LIGHT,
            r#"{"compressor_up_type": "mlp_swiglu"}"#,
            "linear as the tensors of all layers are",
        ),
        (
            &LIGHT,
            r#"{"compressor_down_type": "auto", "use_nonlinear_compressor": false}"#,
            "`use_nonlinear_compressor`: is false",
        ),
        (
            &GELU,
            r#"{"compressor_up_type": "auto", "use_nonlinear_compressor": false}"#,
            "mlp_gelu",
        ),
        (
            &GELU,
            r#"{"compressor_up_type": 3}"#,
            "`compressor_up_type`: is 3",
        ),
        (
            &GELU,
            r#"{"compressor_intermediate_size": 4096}"#,
            "is 4096, not 40 as the tensors",
        ),
        (
            &GELU,
            r#"{"compressor_up_intermediate_size": 64, "compressor_intermediate_size": 40}"#,
            "`compressor_up_intermediate_size`: is 64",
        ),
        (
            &GELU,
            r#"{"compressor_down_intermediate_size": "40"}"#,
            "a whole number",
        ),
    ];
    for (tensors, settings, expected) in settings {
        let found = opened(&checkpoint(tensors, settings));
        let error = found.map(|_| ()).expect_err(expected);
        assert!(error.contains(expected), "{expected}: {error}");
    }
    for bias in [f32::NAN, f32::INFINITY, 1e6] {
        let found = opened(&checkpoint_with(&GELU, "{}", bias));
        let error = found.map(|_| ()).expect_err("a bias is no number");
        assert!(error.contains("tensor `compress_down.0.bias`"), "{error}");
    }
}
