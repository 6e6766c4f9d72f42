//! Models of random weights: the same on every backend, and whose activations stay numbers.

use std::sync::Arc;

use anyhow::{Result, ensure};
use longwave_contract::{Backend, DType};
use longwave_runtime::engine::{Engine, EngineOptions};
use longwave_runtime::model::{Model, ModelConfig, RandomWeights};
use longwave_runtime::policy::Dense;
use longwave_tests::adapter;

const SHAPE: &str = r#"{"model_type": "qwen2", "hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 4,
    "num_hidden_layers": 6, "vocab_size": 500, "max_position_embeddings": 256, "num_key_value_heads": 2, "tie_word_embeddings": false}"#;

/// Backends sum in different orders, which moves logits by up to 2.3e-4; they have a standard deviation near 1.
const TOLERANCE: f32 = 1e-3;
/// Where products round their inputs to f16, 26 of them one after the other move logits by 1.2e-3 (root of the mean square, alike through CUDA
/// and Vulkan, and 6e-5 at most with kernels that round nothing), and the largest of 500 by three to four times that.
const HALF_TOLERANCE: f32 = 8e-3;

/// A seed gives the same model on a backend as on the reference, of every type of weights.
pub(super) fn seeds_decide(subject: &Arc<dyn Backend>) -> Result<()> {
    for dtype in [DType::F16, DType::Q8G32, DType::Q4] {
        let (expected, found) = (
            logits(&adapter::cpu(), dtype, 3)?,
            logits(subject, dtype, 3)?,
        );
        let far = expected.iter().zip(&found).map(|(a, b)| (a - b).abs());
        let far = far.fold(0.0, f32::max);
        let tolerance = match subject.caps().half_products {
            true => HALF_TOLERANCE,
            false => TOLERANCE,
        };
        ensure!(far <= tolerance, "{dtype}: {far}");
        let squares = expected.iter().map(|logit| logit * logit).sum::<f32>();
        let deviation = (squares / expected.len() as f32).sqrt();
        ensure!((0.3..3.0).contains(&deviation), "{dtype}: {deviation}");
        ensure!(logits(subject, dtype, 4)? != found, "{dtype}: another seed");
    }
    Ok(())
}

fn logits(backend: &Arc<dyn Backend>, dtype: DType, seed: u64) -> Result<Vec<f32>> {
    let weights = RandomWeights {
        name: "random".into(),
        config: ModelConfig::from_json("random", SHAPE)?,
        dtype,
        seed,
    };
    let options = EngineOptions::single(128);
    let model = Arc::new(Model::random(backend, &weights, &options)?);
    let mut engine = Engine::new(Arc::clone(backend), model, Arc::new(Dense), options)?;
    let sequence = engine.start();
    let tokens: Vec<u32> = (0..40).map(|index| index * 11 % 500).collect();
    Ok(engine.prefill(sequence, &tokens, &mut |_| ())?)
}
