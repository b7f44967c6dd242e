// Runs a CUDA kernel on the CPU, so that it can be tested where there is no GPU. See run.py, which compiles a kernel's
// source behind this header.
//
// Blocks run one after the other. The threads of a block are fibres: each has a stack of its own and runs until it
// reaches a barrier (__syncthreads, __syncwarp, a shuffle, which waits for its warp) or the end. When all stand still, a
// barrier opens for those who wait at it; if it cannot, as another thread has ended or waits somewhere else, that is an
// error. In which order blocks, warps and lanes take their turns is chosen by the caller: a kernel whose result depends
// on it has a race. Shared memory is full of NaN when a block starts, and of other things in the other orders, so that a
// result that depends on it is noticed as well. Touching memory outside of the arrays ends the launch with a message: each
// array lies between two pages that nobody may read or write. So does an address that is no multiple of what is read.
//
// Simplified: no time, no caches, no memory model. A thread sees at once what another has written.

#pragma once
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <utility>

// --- the language ---

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))  // one block at a time: one copy is enough

struct dim3 { unsigned x, y, z; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

#define VECTOR(T, name)                                                                                     \
    struct name##2 { T x, y; };                                                                             \
    struct name##4 { T x, y, z, w; } __attribute__((aligned(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16)));     \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                              \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTOR(float, float) VECTOR(int, int) VECTOR(unsigned, uint) VECTOR(unsigned char, uchar) VECTOR(unsigned short, ushort)
#undef VECTOR

// --- functions of CUDA that C does not have ---

template <class To, class From> inline To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To result;
    memcpy(&result, &value, sizeof(To));
    return result;
}
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
inline int __float_as_int(float x) { return bits_as<int>(x); }
inline float __uint_as_float(unsigned x) { return bits_as<float>(x); }
inline float __int_as_float(int x) { return bits_as<float>(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return (unsigned __int128)x * y >> 64;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
using std::abs;
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace emulation {

// --- fibres ---

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };
struct Fibre {
    ucontext_t context;   // to start it
    jmp_buf place;        // to go on, which _longjmp does without asking the kernel of the operating system
    bool started;
    State state;
    int line;             // of the barrier it waits at
    unsigned mask;        // of the lanes that it waits for
    unsigned exchanges;   // how many values it has given to its warp
};

const int MOST_THREADS = 1024;
const size_t STACK = 64 * 1024;
static Fibre fibres[MOST_THREADS];
static char* stacks;
static uint64_t exchanged[2][MOST_THREADS];  // what each lane gives away in a shuffle: by turns, so that one barrier is enough
static jmp_buf scheduler;
static sigjmp_buf way_out;
static char problem[400];
static int current, threads;
static void (*body)(void**);
static void** arguments;
static bool adds_in_any_order;  // an atomicAdd of floats: results differ in the last bits from run to run

inline void select(int i) {
    current = i;
    threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
}

[[noreturn]] inline void fail(const char* what) {
    snprintf(problem, sizeof problem, "%s (thread %u,%u,%u of block %u,%u,%u)", what, threadIdx.x, threadIdx.y,
             threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z);
    siglongjmp(way_out, 1);
}

inline void wait(State state, int line, unsigned mask) {
    Fibre& fibre = fibres[current];
    fibre.state = state, fibre.line = line, fibre.mask = mask;
    if (_setjmp(fibre.place) == 0) _longjmp(scheduler, 1);
}

static void run_thread() {
    body(arguments);
    fibres[current].state = DONE;
    _longjmp(scheduler, 1);
}

inline void resume(int i) {
    select(i);
    if (_setjmp(scheduler) != 0) return;
    if (fibres[i].started) _longjmp(fibres[i].place, 1);
    fibres[i].started = true;
    setcontext(&fibres[i].context);
}

// --- barriers ---

inline bool open_warp_barriers(int warp) {  // `warp` is the number of its first thread
    bool opened = false;
    for (int lane = 0; lane < 32 && warp + lane < threads; lane++) {
        Fibre& fibre = fibres[warp + lane];
        if (fibre.state != AT_WARP_BARRIER) continue;
        bool complete = true;
        for (int other = 0; other < 32; other++) {
            if (!(fibre.mask >> other & 1)) continue;
            if (warp + other >= threads || fibres[warp + other].state == DONE) {
                select(warp + lane);
                fail("a shuffle or __syncwarp waits for a lane of its warp that has ended or never was");
            }
            const Fibre& peer = fibres[warp + other];
            complete = complete && peer.state == AT_WARP_BARRIER && peer.mask == fibre.mask && peer.line == fibre.line;
        }
        if (!complete) continue;
        for (int other = 0; other < 32; other++)
            if (fibre.mask >> other & 1) fibres[warp + other].state = READY;
        opened = true;
    }
    return opened;
}

inline void open_block_barrier() {
    for (int i = 0; i < threads; i++)
        if (fibres[i].state != AT_BLOCK_BARRIER || fibres[i].line != fibres[0].line) {
            select(i);
            fail("not all threads of the block reach the same barrier");
        }
    for (int i = 0; i < threads; i++) fibres[i].state = READY;
}

// --- blocks ---

inline void shuffle(int* order, int n, int turn) {  // turn 0: forward, 1: backward, from 2 on: at random
    uint32_t random = 12345u + turn;
    for (int i = 0; i < n; i++) order[i] = turn == 1 ? n - 1 - i : i;
    for (int i = n - 1; turn > 1 && i > 0; i--) {
        random = random * 1664525u + 1013904223u;
        std::swap(order[i], order[(random >> 8) % (i + 1)]);
    }
}

extern "C" char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));
static char* dynamic_shared;
static size_t dynamic_bytes;
static int filling;  // of shared memory when a block starts

inline size_t static_bytes() { return __start_shared_memory ? __stop_shared_memory - __start_shared_memory : 0; }

inline void run_block(const int* warp_order, const int* lane_order) {
    if (static_bytes()) memset(__start_shared_memory, filling, static_bytes());
    memset(dynamic_shared, filling, dynamic_bytes);
    for (int i = 0; i < threads; i++) {
        Fibre& fibre = fibres[i];
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = stacks + i * STACK;
        fibre.context.uc_stack.ss_size = STACK;
        fibre.state = READY, fibre.started = false, fibre.exchanges = 0;
        makecontext(&fibre.context, run_thread, 0);
    }
    for (;;) {
        // Each warp runs as far as it gets before another one moves: what it must wait for, it has to say.
        for (int w = 0; w < (threads + 31) / 32; w++) {
            int warp = 32 * warp_order[w];
            do
                for (int i = 0; i < 32; i++)
                    if (warp + lane_order[i] < threads && fibres[warp + lane_order[i]].state == READY)
                        resume(warp + lane_order[i]);
            while (open_warp_barriers(warp));
        }
        int done = 0;
        for (int i = 0; i < threads; i++) done += fibres[i].state == DONE;
        if (done == threads) return;
        open_block_barrier();
    }
}

static void* touched;  // the address that must not be touched
static void on_fault(int number, siginfo_t* info, void*) {
    touched = info->si_addr;
    siglongjmp(way_out, number);
}

inline void run_grid(int turn) {
    static int block_order[1 << 20], warp_order[32], lane_order[32];
    int blocks = gridDim.x * gridDim.y * gridDim.z;
    shuffle(block_order, blocks, turn);
    for (int i = 0; i < blocks; i++) {
        int b = block_order[i];
        blockIdx = {b % gridDim.x, b / gridDim.x % gridDim.y, b / gridDim.x / gridDim.y};
        shuffle(warp_order, (threads + 31) / 32, turn > 1 ? turn + i : turn);
        shuffle(lane_order, 32, turn > 1 ? turn + i : turn);
        run_block(warp_order, lane_order);
    }
}

// What Python calls, by way of the function that ENTRY makes for each kernel. Returns what went wrong, or null.
inline const char* launch(void (*kernel)(void**), void** args, const unsigned* grid, const unsigned* block, char* shared,
                          size_t shared_bytes, int turn, void** fault, int* any_order) {
    if (!stacks) {
        void* memory = mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) return "no memory for the stacks of the threads";
        stacks = static_cast<char*>(memory);
    }
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]};
    body = kernel, arguments = args, dynamic_shared = shared, dynamic_bytes = shared_bytes;
    filling = turn == 0 ? 0xff : turn == 1 ? 0 : 0x41;  // all bits set: NaN, or -1
    threads = block[0] * block[1] * block[2], adds_in_any_order = false, touched = nullptr;
    if (static_bytes() > 48 * 1024) return "the kernel declares more than 48 KB of shared memory";

    static char handler_stack[64 * 1024];
    stack_t on_other_stack = {}, previous_stack;
    on_other_stack.ss_sp = handler_stack, on_other_stack.ss_size = sizeof handler_stack;
    struct sigaction action = {}, previous[4];
    action.sa_sigaction = on_fault, action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    const int signals[4] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    sigaltstack(&on_other_stack, &previous_stack);
    for (int i = 0; i < 4; i++) sigaction(signals[i], &action, &previous[i]);

    int outcome = sigsetjmp(way_out, 1);
    if (outcome == 0) run_grid(turn);
    for (int i = 0; i < 4; i++) sigaction(signals[i], &previous[i], nullptr);
    sigaltstack(&previous_stack, nullptr);
    if (outcome == SIGSEGV || outcome == SIGBUS || outcome == SIGFPE || outcome == SIGILL)
        snprintf(problem, sizeof problem, "%s (thread %u,%u,%u of block %u,%u,%u)",
                 outcome == SIGFPE   ? "division of an integer by 0"
                 : outcome == SIGILL ? "an address is no multiple of the size of what is read or written there"
                                     : "memory was touched that is in none of the arrays",
                 threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z);
    *fault = outcome == SIGILL ? nullptr : touched, *any_order = adds_in_any_order;
    return outcome ? problem : nullptr;
}

template <class... A, size_t... I>
inline void unpack(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*static_cast<typename std::remove_reference<A>::type*>(args[I])...);
}
template <class... A> inline void call(void (*kernel)(A...), void** args) {
    unpack(kernel, args, std::index_sequence_for<A...>());
}

// --- lanes of a warp that exchange values ---

template <class T> inline T exchange(unsigned mask, T value, int source, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    int warp = current / 32 * 32, lane = current % 32;
    if (!(mask >> lane & 1)) fail("a lane calls a shuffle whose mask leaves it out");
    if (!(mask >> (source & 31) & 1)) fail("a shuffle reads from a lane that its mask leaves out");
    uint64_t* slots = exchanged[fibres[current].exchanges++ % 2];
    memcpy(&slots[current], &value, sizeof(T));
    wait(AT_WARP_BARRIER, line, mask);
    memcpy(&value, &slots[warp + source], sizeof(T));
    return value;
}

template <class T> inline T shuffle_xor(unsigned mask, T value, int with, int line) {
    return exchange(mask, value, (current % 32) ^ with, line);
}
template <class T> inline T shuffle_down(unsigned mask, T value, int by, int line) {
    int source = current % 32 + by;
    return exchange(mask, value, source < 32 ? source : current % 32, line);
}
template <class T> inline T shuffle_up(unsigned mask, T value, int by, int line) {
    int source = current % 32 - by;
    return exchange(mask, value, source >= 0 ? source : current % 32, line);
}
inline unsigned ballot(unsigned mask, bool yes, int line) {
    unsigned votes = 0;
    int warp = current / 32 * 32, lane = current % 32;
    uint64_t* slots = exchanged[fibres[current].exchanges++ % 2];
    if (!(mask >> lane & 1)) fail("a lane calls a vote whose mask leaves it out");
    slots[current] = yes;
    wait(AT_WARP_BARRIER, line, mask);
    for (int other = 0; other < 32; other++)
        if (mask >> other & 1 && slots[warp + other]) votes |= 1u << other;
    return votes;
}

template <class T> inline T add(T* place, T value) {
    adds_in_any_order = adds_in_any_order || T(0.5) != T(0);
    T before = *place;
    *place = before + value;
    return before;
}

}  // namespace emulation

#define __syncthreads() emulation::wait(emulation::AT_BLOCK_BARRIER, __LINE__, 0)
#define __syncwarp(...) emulation::wait(emulation::AT_WARP_BARRIER, __LINE__, ~0u)
#define __shfl_sync(mask, value, source) emulation::exchange(mask, value, source, __LINE__)
#define __shfl_xor_sync(mask, value, with) emulation::shuffle_xor(mask, value, with, __LINE__)
#define __shfl_down_sync(mask, value, by) emulation::shuffle_down(mask, value, by, __LINE__)
#define __shfl_up_sync(mask, value, by) emulation::shuffle_up(mask, value, by, __LINE__)
#define __ballot_sync(mask, yes) emulation::ballot(mask, yes, __LINE__)
#define __any_sync(mask, yes) (emulation::ballot(mask, yes, __LINE__) != 0)
#define __all_sync(mask, yes) (emulation::ballot(mask, yes, __LINE__) == (mask))
#define atomicAdd(place, value) emulation::add(place, value)

#define ENTRY(name)                                                                                                  \
    static void emulated_##name(void** args) { emulation::call(&name, args); }                                       \
    extern "C" const char* emulate_##name(void** args, const unsigned* grid, const unsigned* block, char* shared,    \
                                          size_t bytes, int turn, void** fault, int* any_order) {                    \
        return emulation::launch(emulated_##name, args, grid, block, shared, bytes, turn, fault, any_order);         \
    }
