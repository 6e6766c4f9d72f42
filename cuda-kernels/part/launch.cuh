// Programmatic dependent launch: a kernel may be under way before the one ahead of it has ended.
#pragma once

// Waits until what earlier kernels wrote can be read. Every block calls it, also one that then leaves.
__device__ inline void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel's blocks start as soon as there is room; they wait for this one's results themselves.
__device__ inline void release_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
