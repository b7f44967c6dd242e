// Runs a CUDA kernel on the CPU, so that it can be tested where there is no GPU. See run.py, which compiles a kernel's
// source behind this header.
//
// Blocks run one after the other. The threads of a block are fibres: each has a stack of its own and runs until it
// reaches a barrier (__syncthreads, or a shuffle, which waits for its warp) or the end. When all stand still, a
// barrier opens for those who wait at it; if it cannot, as another thread has ended or waits somewhere else, that is an
// error. In which order blocks, warps and lanes take their turns is chosen by the caller: a kernel whose result depends
// on it has a race. Shared memory is full of NaN when a block starts, and of other things in the other orders, so that a
// result that depends on it is noticed as well. Touching memory outside of the arrays ends the launch with a message: each
// array lies between two pages that nobody may read or write.
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
#define __shared__ static __attribute__((section("shared_memory")))  // one block at a time: one copy is enough

struct dim3 { unsigned x, y; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;

// --- functions of CUDA that C does not have ---

template <class To, class From> inline To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To result;
    memcpy(&result, &value, sizeof(To));
    return result;
}
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
inline float __int_as_float(int x) { return bits_as<float>(x); }
template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
using std::abs;

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

inline void select(int i) {
    current = i;
    threadIdx = {unsigned(i), 0};
}

[[noreturn]] inline void fail(const char* what) {
    snprintf(problem, sizeof problem, "%s (thread %u of block %u,%u)", what, threadIdx.x, blockIdx.x, blockIdx.y);
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
                fail("a shuffle waits for a lane of its warp that has ended or never was");
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
static int filling;  // of shared memory when a block starts

inline size_t static_bytes() { return __start_shared_memory ? __stop_shared_memory - __start_shared_memory : 0; }

inline void run_block(const int* warp_order, const int* lane_order) {
    if (static_bytes()) memset(__start_shared_memory, filling, static_bytes());
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
    int blocks = gridDim.x * gridDim.y;
    shuffle(block_order, blocks, turn);
    for (int i = 0; i < blocks; i++) {
        blockIdx = {block_order[i] % gridDim.x, block_order[i] / gridDim.x};
        shuffle(warp_order, (threads + 31) / 32, turn > 1 ? turn + i : turn);
        shuffle(lane_order, 32, turn > 1 ? turn + i : turn);
        run_block(warp_order, lane_order);
    }
}

// What Python calls, by way of the function that ENTRY makes for each kernel. Returns what went wrong, or null.
inline const char* launch(void (*kernel)(void**), void** args, unsigned width, unsigned height, unsigned block, int turn,
                          void** fault) {
    if (!stacks) {
        void* memory = mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) return "no memory for the stacks of the threads";
        stacks = static_cast<char*>(memory);
    }
    gridDim = {width, height}, blockDim = {block, 1};
    body = kernel, arguments = args;
    filling = turn == 0 ? 0xff : turn == 1 ? 0 : 0x41;  // all bits set: NaN, or -1
    threads = block, touched = nullptr;
    if (static_bytes() > 48 * 1024) return "the kernel declares more than 48 KB of shared memory";

    static char handler_stack[64 * 1024];
    stack_t on_other_stack = {}, previous_stack;
    on_other_stack.ss_sp = handler_stack, on_other_stack.ss_size = sizeof handler_stack;
    struct sigaction action = {}, previous[3];
    action.sa_sigaction = on_fault, action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    const int signals[3] = {SIGSEGV, SIGBUS, SIGFPE};
    sigaltstack(&on_other_stack, &previous_stack);
    for (int i = 0; i < 3; i++) sigaction(signals[i], &action, &previous[i]);

    int outcome = sigsetjmp(way_out, 1);
    if (outcome == 0) run_grid(turn);
    for (int i = 0; i < 3; i++) sigaction(signals[i], &previous[i], nullptr);
    sigaltstack(&previous_stack, nullptr);
    if (outcome == SIGSEGV || outcome == SIGBUS || outcome == SIGFPE)
        snprintf(problem, sizeof problem, "%s (thread %u of block %u,%u)",
                 outcome == SIGFPE ? "division of an integer by 0" : "memory was touched that is in none of the arrays",
                 threadIdx.x, blockIdx.x, blockIdx.y);
    *fault = touched;
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

template <class T> inline T shuffle_xor(unsigned mask, T value, int with, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    int warp = current / 32 * 32, lane = current % 32, source = lane ^ with;
    if (!(mask >> lane & 1)) fail("a lane calls a shuffle whose mask leaves it out");
    if (!(mask >> (source & 31) & 1)) fail("a shuffle reads from a lane that its mask leaves out");
    uint64_t* slots = exchanged[fibres[current].exchanges++ % 2];
    memcpy(&slots[current], &value, sizeof(T));
    wait(AT_WARP_BARRIER, line, mask);
    memcpy(&value, &slots[warp + source], sizeof(T));
    return value;
}

}  // namespace emulation

#define __syncthreads() emulation::wait(emulation::AT_BLOCK_BARRIER, __LINE__, 0)
#define __shfl_xor_sync(mask, value, with) emulation::shuffle_xor(mask, value, with, __LINE__)

#define ENTRY(name)                                                                                                  \
    static void emulated_##name(void** args) { emulation::call(&name, args); }                                       \
    extern "C" const char* emulate_##name(void** args, unsigned width, unsigned height, unsigned block, int turn,    \
                                          void** fault) {                                                            \
        return emulation::launch(emulated_##name, args, width, height, block, turn, fault);                          \
    }
