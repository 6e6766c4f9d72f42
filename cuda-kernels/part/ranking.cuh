// The order of a pick's candidates, and what the kernels of a selection leave for one another.
#pragma once
#include "part/digit.cuh"

// Keys are below 2^31: digits of 9, 13 and 9 bits. The outer two are counted for each part by itself, so that they need not be zero before, and
// are few enough for every part to read those of all; the middle one is counted for all parts together.
constexpr u32 OUTER_BINS = 512;
constexpr u32 MIDDLE_BINS = 8192;
constexpr u32 FIRST_SHIFT = 22;
constexpr u32 MIDDLE_SHIFT = 9;
// Candidates that are worth a block of their own.
constexpr u32 PART = 4096;

// The key so far, and how many of the candidates with it stay.
struct Threshold {
    u32 key;
    u32 stay;
};

// A pick's share of the working memory.
struct Ranks {
    u32* work;
    u32 parts;

    __device__ u32* first(u32 part) const { return work + part * OUTER_BINS; }
    __device__ u32* middle() const { return work + parts * OUTER_BINS; }
    __device__ u32* last(u32 part) const { return middle() + MIDDLE_BINS + part * OUTER_BINS; }
    // Candidates of a part whose first two digits are above the threshold's.
    __device__ u32* above(u32 part) const { return last(parts) + part; }
    // After the first digit, and after the first two.
    __device__ Threshold* threshold(u32 digits) const { return reinterpret_cast<Threshold*>(above(parts + (parts & 1))) + digits - 1; }
};

// A permutation of the numbers without a pattern.
__device__ inline u32 scattered(u32 value) {
    value = (value ^ value >> 16) * 0x7feb352du;
    value = (value ^ value >> 15) * 0x846ca68bu;
    return value ^ value >> 16;
}

// A part of a pick's candidates, and their order.
struct Part {
    PickDesc pick;
    // Candidates in all, and of those how many stay.
    u32 candidates;
    u32 keep;
    // Parts that have candidates, and the candidates of this one, from a whole quad on.
    u32 used;
    u32 begin;
    u32 end;
    // Whether choices are planted; then the row's position, and in 4096ths how much nearer each brings a candidate to its next draw.
    bool planted;
    u32 position;
    u32 rate;

    // `capacity` candidates at most, in up to `parts` parts; `overlap` is beyond 1000 where scores choose.
    __device__ Part(PickDesc of, const RowDesc* rows, u32 capacity, u32 index, u32 parts, u32 overlap) : pick(of) {
        candidates = min(pick.candidates, capacity);
        keep = min(pick.keep, candidates);
        u32 size = max(round_up(ceil_div(candidates, parts), 4), PART);
        used = ceil_div(candidates, size);
        begin = min(index * size, candidates);
        end = min(begin + size, candidates);
        planted = overlap <= 1000;
        position = rows[pick.row].position;
        u32 left_out = pick.candidates > pick.keep ? pick.candidates - pick.keep : 1;
        rate = planted ? min(4096 * (1000 - overlap) / 1000 * pick.candidates / left_out, 4096u) : 0;
    }

    // Scores are not negative, so their bits are ordered as they are.
    __device__ u32 key(float score, u32 candidate) const {
        u32 bits = __float_as_uint(fmaxf(score, 0.0f));
        if (!planted) return bits;
        u32 draw = (position * rate + (scattered(candidate) & 4095)) >> 12;
        // A score has no sign: it is read as if it chose.
        return (bits >> 31) + (scattered(candidate ^ scattered(draw + 0x9e3779b9u)) >> 2);
    }

    // The keys of four candidates from `at`, a multiple of four, on. Beyond the last candidate they are of no meaning.
    __device__ void keys(const float* scores, u32 at, u32 (&keys)[4]) const {
        float4 quad = reinterpret_cast<const float4*>(scores)[at / 4];
        keys[0] = key(quad.x, at);
        keys[1] = key(quad.y, at + 1);
        keys[2] = key(quad.z, at + 2);
        keys[3] = key(quad.w, at + 3);
    }
};
