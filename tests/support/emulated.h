// Enough of CUDA to run gpu.cu as C++: a block's warps one after the other, each warp's 32 lanes as
// fibers that switch where lanes meet (shuffles and ballots). Lanes of a warp that do not all meet
// at the same place are an error, as they are undefined on a card.

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>
#include <ucontext.h>
#include <utility>

#define __global__
#define __device__
#define __launch_bounds__(...)

struct Index {
    unsigned x, y, z;
};

namespace emulation {

constexpr int LANES = 32;
constexpr size_t STACK = 128 * 1024;

enum class Met { nowhere, shuffle, ballot, reduction, barrier, end };

struct Lane {
    ucontext_t context;
    jmp_buf here;
    char* stack = nullptr;
    bool begun = false;
    Met met = Met::nowhere;
    Index thread;
};

struct Warp {
    Lane lane[LANES];
    jmp_buf scheduler;
    int current = 0;
    uint64_t value[2][LANES];
    int phase = 0;
    std::function<void()> body;
    Index block, block_size;
    bool diverged = false;
};

inline Warp& warp() {
    static thread_local Warp* own = new Warp;
    return *own;
}

inline void leave(Met met) {
    Warp& w = warp();
    Lane& lane = w.lane[w.current];
    lane.met = met;
    if (_setjmp(lane.here) == 0) _longjmp(w.scheduler, 1);
}

inline void enter() {
    warp().body();
    leave(Met::end);
}

inline void resume(int index) {
    Warp& w = warp();
    Lane& lane = w.lane[index];
    w.current = index;
    if (_setjmp(w.scheduler)) return;
    if (lane.begun) _longjmp(lane.here, 1);
    lane.begun = true;
    if (!lane.stack) lane.stack = static_cast<char*>(malloc(STACK));
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack;
    lane.context.uc_stack.ss_size = STACK;
    lane.context.uc_link = nullptr;
    makecontext(&lane.context, enter, 0);
    setcontext(&lane.context);
}

// Runs the lanes from meeting to meeting until all have ended.
inline void run_warp() {
    Warp& w = warp();
    for (Lane& lane : w.lane) lane.begun = false;
    for (;;) {
        for (int i = 0; i < LANES; ++i) resume(i);
        for (Lane& lane : w.lane) w.diverged |= lane.met != w.lane[0].met;
        if (w.diverged || w.lane[0].met == Met::end) return;
        w.phase ^= 1;
    }
}

// What all lanes hold, once all have said.
inline uint64_t* together(uint64_t mine, Met met) {
    Warp& w = warp();
    const int phase = w.phase;
    w.value[phase][w.current] = mine;
    leave(met);
    return warp().value[phase];
}

template <class T>
T exchanged(T mine, int other) {
    static_assert(sizeof(T) <= 8, "a lane exchanges words");
    uint64_t bits = 0;
    memcpy(&bits, &mine, sizeof(T));
    const int own = warp().current;
    bits = together(bits, Met::shuffle)[other < LANES ? other : own];
    memcpy(&mine, &bits, sizeof(T));
    return mine;
}

template <class... A, size_t... I>
int run(void (*kernel)(A...), Index grid, unsigned threads, void** argument,
        std::index_sequence<I...>) {
    std::tuple<A...> values(*static_cast<A*>(argument[I])...);
    Warp& w = warp();
    w.body = [&] { std::apply(kernel, values); };
    w.block_size = {threads, 1, 1};
    w.diverged = false;
    for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; ++x)
            for (unsigned first = 0; first < threads; first += LANES) {
                w.block = {x, y, 0};
                for (unsigned i = 0; i < LANES; ++i) w.lane[i].thread = {first + i, 0, 0};
                run_warp();
                if (w.diverged) return 1;
            }
    return 0;
}

template <class... A>
int launch(void (*kernel)(A...), unsigned x, unsigned y, unsigned threads, void** argument) {
    return run(kernel, Index{x, y, 1}, threads, argument, std::index_sequence_for<A...>());
}

}  // namespace emulation

#define threadIdx (emulation::warp().lane[emulation::warp().current].thread)
#define blockIdx (emulation::warp().block)
#define blockDim (emulation::warp().block_size)

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    return emulation::exchanged(value, lane % emulation::LANES);
}

template <class T>
T __shfl_down_sync(unsigned, T value, int offset) {
    return emulation::exchanged(value, emulation::warp().current + offset);
}

inline unsigned __ballot_sync(unsigned, bool vote) {
    const uint64_t* votes = emulation::together(vote, emulation::Met::ballot);
    unsigned all = 0;
    for (int i = 0; i < emulation::LANES; ++i) all |= static_cast<unsigned>(votes[i] != 0) << i;
    return all;
}

template <class T>
T __shfl_up_sync(unsigned, T value, int offset) {
    const int other = emulation::warp().current - offset;
    return emulation::exchanged(value, other < 0 ? emulation::LANES : other);
}

inline unsigned __reduce_or_sync(unsigned, unsigned bits) {
    const uint64_t* held = emulation::together(bits, emulation::Met::reduction);
    unsigned all = 0;
    for (int i = 0; i < emulation::LANES; ++i) all |= static_cast<unsigned>(held[i]);
    return all;
}

inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
    for (int i = 0; i < 4; ++i) sum += (a >> 8 * i & 0xFF) * (b >> 8 * i & 0xFF);
    return sum;
}

inline unsigned __dp2a_lo(unsigned a, unsigned b, unsigned sum) {
    for (int i = 0; i < 2; ++i) sum += (a >> 16 * i & 0xFFFF) * (b >> 8 * i & 0xFF);
    return sum;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline void __syncwarp() { emulation::leave(emulation::Met::barrier); }
