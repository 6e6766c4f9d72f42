// Copies from global to shared memory that run beside the threads, and loads of what is read once.
#pragma once
#include "part/math.cuh"

__device__ inline u32 shared_address(const void* place) { return u32(__cvta_generic_to_shared(place)); }

// Starts a copy of 16 bytes; zeros where `present` is false, when nothing is read.
__device__ inline void copy_16(u32 to, const void* from, bool present) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(present ? 16 : 0) : "memory");
}

// As copy_16, of 4 bytes.
__device__ inline void copy_4(u32 to, const void* from, bool present) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(present ? 4 : 0) : "memory");
}

// Ends a group of copies, which may be empty.
__device__ inline void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING groups of this thread's copies are under way. A barrier then shows them to other threads.
template <u32 PENDING>
__device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Loads what no other block reads, without room in the first cache.
__device__ inline uint4 load_once(const uint4* from) {
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(from));
    return value;
}
