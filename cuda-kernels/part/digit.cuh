// One round of a radix select: the digit of the last of the largest keys that stay.
#pragma once
#include "part/scan.cuh"

// A digit, and how many of the keys with it stay.
struct Digit {
    u32 value;
    u32 stay;
};

// What a block of THREADS_ threads shares to find one.
template <u32 THREADS_>
struct DigitSearch {
    u32 sums[THREADS_ / WARP];
    Digit found;
};

// The digit at which the number of keys, counted from the highest digit down, reaches `rest`; where none stays, the highest. Thread t has the
// counts of EACH digits from t * EACH on. All threads take part.
template <u32 THREADS_, u32 EACH>
__device__ inline Digit last_digit(const u32 (&counts)[EACH], u32 rest, DigitSearch<THREADS_>* shared) {
    u32 own = 0;
#pragma unroll
    for (u32 i = 0; i < EACH; i++) own += counts[i];
    Scanned<u32> scanned = block_scan<THREADS_>(own, shared->sums);
    u32 above = scanned.all - scanned.before - own;
    bool none = rest == 0 && threadIdx.x == THREADS_ - 1;
    if (none || (above < rest && rest <= above + own)) {
        u32 at = EACH - 1, left = rest - above;
#pragma unroll
        for (u32 i = EACH - 1; i > 0; i--) {
            if (at == i && counts[i] < left) {
                left -= counts[i];
                at = i - 1;
            }
        }
        shared->found = {threadIdx.x * EACH + at, left};
    }
    __syncthreads();
    return shared->found;
}
