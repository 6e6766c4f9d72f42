// Matrix products by a warpgroup of 128 threads, on tensor cores that run beside it and read shared memory themselves, and the barriers between
// those who fill shared memory and those who multiply (compute capability 9.0).
#pragma once
#include "part/math.cuh"

// Lists of operands of inline assembly.
#define OPERANDS_8(list, at) \
    "+f"(list[at]), "+f"(list[at + 1]), "+f"(list[at + 2]), "+f"(list[at + 3]), "+f"(list[at + 4]), "+f"(list[at + 5]), "+f"(list[at + 6]), "+f"(list[at + 7])
#define OPERANDS_32(list, at) OPERANDS_8(list, at), OPERANDS_8(list, at + 8), OPERANDS_8(list, at + 16), OPERANDS_8(list, at + 24)
#define OPERANDS_64(list) OPERANDS_32(list, 0), OPERANDS_32(list, 32)

// A matrix in shared memory, in panels of 64 elements: rows of 128 bytes one after the other, whose chunk c of 16 bytes lies at c ^ r % 8 in row r. It
// starts at a multiple of 1024 bytes, or further on by whole chunks of its first row. `panel` are the bytes from one panel to the next, of which only
// products along rows take more than one.
__device__ inline u64 matrix_descriptor(u32 address, u32 panel) {
    constexpr u64 SWIZZLED_128 = 1ull << 62;
    constexpr u64 EIGHT_ROWS = 1024 / 16;
    return SWIZZLED_128 | EIGHT_ROWS << 32 | u64(panel / 16) << 16 | u64(address / 16);
}

// sum[64 x 128] (+)= a[64 x 16] * b[128 x 16]^T, f16 with sums in f32, both in shared memory. A warp has 16 rows, and a thread of every 8 columns what it
// has in `multiply_16x8x16`. `sum` is not to be touched until the product has been waited for.
__device__ inline void start_product(float (&sum)[64], u64 a, u64 b, bool accumulate) {
    asm volatile(
        "{ .reg .pred accumulate; setp.ne.u32 accumulate, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, accumulate, 1, 1, 0, 0; }"
        : OPERANDS_64(sum)
        : "l"(a), "l"(b), "r"(u32(accumulate)));
}

// sum[64 x 128] += a[64 x 16] * b[16 x 128], with `a` in registers and rows of `b` in shared memory.
__device__ inline void start_product(float (&sum)[64], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
        : OPERANDS_64(sum)
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

// As above, sum[64 x 64] += a[64 x 16] * b[16 x 64].
__device__ inline void start_product(float (&sum)[32], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
        : OPERANDS_32(sum, 0)
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

// Shows what threads did to registers to the products that start next.
__device__ inline void products_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Ends a group of products.
__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most PENDING groups are under way, whereupon `sum` can be used.
template <u32 PENDING>
__device__ inline void products_wait(float (&sum)[64]) {
    asm volatile("wgmma.wait_group.sync.aligned %64;" : OPERANDS_64(sum) : "n"(PENDING) : "memory");
}

template <u32 PENDING>
__device__ inline void products_wait(float (&sum)[32]) {
    asm volatile("wgmma.wait_group.sync.aligned %32;" : OPERANDS_32(sum, 0) : "n"(PENDING) : "memory");
}

#undef OPERANDS_64
#undef OPERANDS_32
#undef OPERANDS_8

// Shows what threads wrote to shared memory to products.
__device__ inline void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A barrier in shared memory, each of whose phases takes `arrivals`.
__device__ inline void barrier_init(u32 barrier, u32 arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory"); }

__device__ inline void barrier_arrive(u32 barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }

// Arrives once this thread's copies have.
__device__ inline void barrier_arrive_after_copies(u32 barrier) { asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory"); }

// Waits for the end of a phase of this parity. Before the first phase, the one of parity 1 has ended.
__device__ inline void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{ .reg .pred ended;\n"
        "wait: mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
        "@!ended bra wait; }" ::"r"(barrier), "r"(parity) : "memory");
}

// A barrier of THREADS_ threads, by number: 0 is that of `__syncthreads`.
template <u32 THREADS_>
__device__ inline void named_sync(u32 number) {
    asm volatile("barrier.sync %0, %1;" ::"r"(number), "n"(THREADS_) : "memory");
}

// As `named_sync`, without waiting.
template <u32 THREADS_>
__device__ inline void named_arrive(u32 number) {
    asm volatile("barrier.arrive %0, %1;" ::"r"(number), "n"(THREADS_) : "memory");
}

// Takes registers over from warpgroups that have given them up.
template <u32 COUNT>
__device__ inline void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <u32 COUNT>
__device__ inline void registers_give() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
