//! Buffers, plans and threads.

use longwave_contract::op::LinearAdd;
use longwave_contract::{
    Allocation, Backend, BackendError, BufferDesc, BufferId, DType, DeviceKind, PlanId, Recording,
    Tensor, Ticket,
};

use super::Stage;
use crate::CpuBackend;

fn desc(bytes: u64) -> BufferDesc {
    BufferDesc {
        label: "thing".into(),
        bytes,
        row: 16,
    }
}

fn is_bad_handle<T: std::fmt::Debug>(result: Result<T, BackendError>) -> bool {
    matches!(result, Err(BackendError::BadHandle { .. }))
}

#[test]
fn buffers_start_as_zeros_and_hold_what_is_written() {
    let backend = CpuBackend::new();
    let id = backend.alloc(&desc(100)).unwrap();
    assert_eq!(backend.allocated(), 128);
    let mut bytes = [1u8; 100];
    backend.read(id, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 100]);
    backend.write(id, 96, &[1, 2, 3, 4]).unwrap();
    backend.copy((id, 96), (id, 8), 4).unwrap();
    let other = backend.alloc(&desc(8)).unwrap();
    backend.copy((id, 8), (other, 4), 4).unwrap();
    let mut word = [0; 4];
    backend.read(other, 4, &mut word).unwrap();
    assert_eq!(word, [1, 2, 3, 4]);
    backend.free(id);
    backend.free(other);
    assert_eq!(backend.allocated(), 0);
    assert!(is_bad_handle(backend.read(id, 0, &mut word)));
    assert_ne!(
        backend.alloc(&desc(8)).unwrap(),
        other,
        "ids are not reused"
    );
}

#[test]
fn ranges_are_checked() {
    let backend = CpuBackend::new();
    let id = backend.alloc(&desc(64)).unwrap();
    assert!(is_bad_handle(backend.write(id, 0, &[0; 68])));
    assert!(is_bad_handle(backend.write(id, 2, &[0; 4])));
    assert!(is_bad_handle(backend.write(id, 0, &[0; 3])));
    assert!(is_bad_handle(backend.read(id, 64, &mut [0; 4])));
    assert!(is_bad_handle(backend.read(id, u64::MAX - 3, &mut [0; 4])));
    assert!(is_bad_handle(backend.copy((id, 0), (id, 12), 16)));
    assert!(is_bad_handle(backend.copy((id, 0), (id, 56), 16)));
    assert!(is_bad_handle(backend.copy((id, 0), (BufferId(9), 0), 4)));
    backend.copy((id, 0), (id, 16), 16).unwrap();
}

#[test]
fn too_much_memory_is_an_error() {
    let backend = CpuBackend::new();
    for bytes in [u64::MAX, u64::MAX / 2, 1 << 60, 1 << 50] {
        let result = backend.alloc(&desc(bytes));
        let expected = BackendError::OutOfMemory {
            backend: "cpu",
            label: "thing".into(),
            bytes,
        };
        assert_eq!(result, Err(expected));
    }
    assert_eq!(backend.allocated(), 0);
}

#[test]
fn plans_need_their_buffers() {
    let mut stage = Stage::new();
    let a = stage.case(DType::F32, 2, 32);
    let weight = stage.case(DType::Q4, 32, 32);
    let x = stage.case(DType::F32, 2, 32);
    let mut recording = Recording::new("plan");
    let op = LinearAdd {
        a: a.tensor,
        weight: weight.tensor,
        bias: None,
        count: stage.count(2),
        x: x.tensor,
    };
    recording.push(op).unwrap();
    let plan = stage.backend.prepare(&recording).unwrap();
    let first = stage.backend.run(plan).unwrap();
    stage.backend.wait(first).unwrap();
    assert_eq!(stage.backend.profile(plan).map(|times| times.len()), Ok(1));
    stage.backend.free(a.tensor.buffer);
    assert!(is_bad_handle(stage.backend.run(plan)));
    let kept = stage.read(x.tensor);
    assert_ne!(kept, x.values, "the first run has counted, and x is back");
    assert!(is_bad_handle(stage.backend.profile(plan)));
    stage.backend.free(x.tensor.buffer);
    assert!(is_bad_handle(stage.backend.run(plan)));
    stage.backend.release(plan);
    assert!(is_bad_handle(stage.backend.run(plan)));
    assert_eq!(stage.backend.kernels(plan), Vec::<String>::new());
    assert!(is_bad_handle(stage.backend.run(PlanId(77))));
    assert!(is_bad_handle(stage.backend.wait(Ticket(1000))));
}

#[test]
fn tensors_outside_of_their_buffers_are_errors() {
    let mut stage = Stage::new();
    let a = stage.case(DType::F32, 2, 32);
    let weight = stage.case(DType::Q4, 32, 32);
    let x = stage.case(DType::F32, 2, 32);
    let op = LinearAdd {
        a: a.tensor,
        weight: weight.tensor,
        bias: None,
        count: stage.count(2),
        x: x.tensor,
    };
    let far = Tensor::at(x.tensor, 256);
    assert!(is_bad_handle(stage.run(LinearAdd { x: far, ..op })));
    let far = Tensor::at(a.tensor, u64::MAX - 255);
    assert!(is_bad_handle(stage.run(LinearAdd { a: far, ..op })));
    stage.run(op).unwrap();
}

#[test]
fn results_do_not_depend_on_threads() {
    let results = [1, 2, 5].map(|threads| {
        let mut stage = Stage::new();
        stage.backend = CpuBackend::with_threads(threads).unwrap();
        let a = stage.case(DType::F32, 20, 576);
        let weight = stage.case(DType::Q4, 200, 576);
        let x = stage.case(DType::F32, 20, 200);
        let count = stage.count(20);
        stage
            .run(LinearAdd {
                a: a.tensor,
                weight: weight.tensor,
                bias: None,
                count,
                x: x.tensor,
            })
            .unwrap();
        stage.read(x.tensor)
    });
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

#[test]
fn caps_describe_the_host() {
    let backend = CpuBackend::with_threads(2).unwrap();
    let caps = backend.caps();
    assert_eq!((caps.backend, caps.kind), ("cpu", DeviceKind::Cpu));
    assert!(!caps.device.is_empty());
    assert!(caps.driver.starts_with("2 threads"), "{}", caps.driver);
    assert_eq!(caps.slab_limit, u64::MAX);
    if cfg!(target_os = "linux") {
        assert!(caps.memory.is_some_and(|bytes| bytes > 1 << 20));
    }
}

#[test]
fn an_allocation_gives_its_buffer_back() {
    let backend: std::sync::Arc<dyn Backend> = std::sync::Arc::new(CpuBackend::new());
    let allocation = Allocation::new(&backend, &desc(64)).unwrap();
    assert_eq!(backend.allocated(), 64);
    drop(allocation);
    assert_eq!(backend.allocated(), 0);
}
