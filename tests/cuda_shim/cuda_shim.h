// The part of CUDA that this project's kernels need, to run them on a CPU, one thread of the grid at a time. For tests only.
//
// The blocks of a grid run one after the other, in shuffled order. Each thread of a block is a fiber. It runs until it waits for its warp,
// in __syncwarp or a shuffle; then a random other thread that can go on runs. So operations that a kernel leaves unordered happen in
// another order with each seed. Errors are reported for a warp that waits for a thread which has ended, for a partial mask, and for loads
// (__ldg) and atomic additions that are not aligned or lie outside the tensors.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static  // blocks do not run at the same time
#define threadIdx (::cuda_shim::machine().thread_index())
#define blockIdx (::cuda_shim::machine().block_index())

struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace cuda_shim {

constexpr int kWarpSize = 32;
constexpr size_t kStack = 64 * 1024;

struct Counts {  // number of instructions, over all threads
  int64_t loads_16_bytes, other_loads, atomics, numbers_added, shuffles;
};

class Machine {
 public:
  std::string error;
  Counts counts = {};
  std::vector<std::pair<uintptr_t, uintptr_t>> tensors;  // where each begins and ends

  template <typename T>
  void check(const T* pointer, const char* what) {
    const auto begin = reinterpret_cast<uintptr_t>(pointer), end = begin + sizeof(T);
    if (begin % alignof(T) != 0) error = std::string(what) + " that is not aligned";
    for (const auto& tensor : tensors) {
      if (tensor.first <= begin && end <= tensor.second) return;
    }
    error = std::string(what) + " outside the tensors";
  }

  // Runs body() in every thread of the grid.
  void launch(unsigned blocks, unsigned threads, uint64_t seed, std::function<void()> body) {
    random_.seed(seed);
    body_ = std::move(body);
    std::vector<unsigned> order(blocks);
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), random_);
    for (unsigned block : order) {
      block_ = {block, 0, 0};
      run_block(threads);
    }
  }

  uint3 thread_index() const { return {current_, 0, 0}; }
  uint3 block_index() const { return block_; }

  // Waits for the warp, then returns the number that lane `from` passed.
  template <typename T>
  T exchange(unsigned mask, T mine, unsigned from) {
    static_assert(sizeof(T) <= sizeof(double), "a shuffle moves at most 8 bytes");
    if (mask != 0xffffffffu) error = "a mask without all lanes";
    Fiber& fiber = fibers_[current_];
    Warp& warp = warps_[current_ / kWarpSize];
    // Two sets of slots suffice: a lane can be one exchange ahead of a lane that has not read yet, never two.
    auto& slots = warp.slots[fiber.exchanges++ % 2];
    std::memcpy(&slots[current_ % kWarpSize], &mine, sizeof(T));
    if (++warp.arrived == kWarpSize) {
      warp.arrived = 0;
      const unsigned first = current_ / kWarpSize * kWarpSize;
      for (unsigned lane = 0; lane < kWarpSize; ++lane) ready_.push_back(first + lane);
    }
    swapcontext(&fiber.context, &scheduler_);
    T theirs;
    std::memcpy(&theirs, &slots[from], sizeof(T));
    return theirs;
  }

 private:
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStack]};
    int64_t exchanges = 0;
  };
  struct Warp {
    double slots[2][kWarpSize];
    int arrived = 0;
  };

  static void enter();

  void run_block(unsigned threads) {
    if (threads % kWarpSize != 0) error = "a block whose threads do not fill whole warps";
    fibers_.resize(threads);
    warps_.assign(threads / kWarpSize, Warp());
    ready_.resize(threads);
    std::iota(ready_.begin(), ready_.end(), 0u);
    for (Fiber& fiber : fibers_) {
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = &scheduler_;
      fiber.exchanges = 0;
      makecontext(&fiber.context, &Machine::enter, 0);
    }
    ended_ = 0;
    while (!ready_.empty()) {
      std::swap(ready_[random_() % ready_.size()], ready_.back());
      current_ = ready_.back();
      ready_.pop_back();
      swapcontext(&scheduler_, &fibers_[current_].context);
    }
    if (ended_ != threads) error = "a warp waits for threads that have ended";
  }

  std::mt19937_64 random_;
  std::function<void()> body_;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  std::vector<unsigned> ready_;  // threads that can go on
  ucontext_t scheduler_;
  uint3 block_ = {};
  unsigned current_ = 0, ended_ = 0;
};

inline Machine& machine() {
  static Machine one;
  return one;
}

inline void Machine::enter() {
  machine().body_();
  ++machine().ended_;
}

}  // namespace cuda_shim

inline void __syncwarp(unsigned mask = 0xffffffffu) { cuda_shim::machine().exchange(mask, 0, 0); }

template <typename T>
T __shfl_xor_sync(unsigned mask, T number, int distance) {
  ++cuda_shim::machine().counts.shuffles;
  return cuda_shim::machine().exchange(mask, number, threadIdx.x % cuda_shim::kWarpSize ^ distance);
}

template <typename T>
T __ldg(const T* from) {
  auto& machine = cuda_shim::machine();
  machine.check(from, "a load");
  ++(sizeof(T) == 16 ? machine.counts.loads_16_bytes : machine.counts.other_loads);
  T number;
  std::memcpy(&number, from, sizeof(T));
  return number;
}

template <typename T>
void atomicAdd(T* to, T number) {
  auto& machine = cuda_shim::machine();
  machine.check(to, "an addition");
  ++machine.counts.atomics;
  ++machine.counts.numbers_added;
  *to += number;
}

inline void atomicAdd(float4* to, float4 numbers) {
  auto& machine = cuda_shim::machine();
  machine.check(to, "an addition");
  ++machine.counts.atomics;
  machine.counts.numbers_added += 4;
  to->x += numbers.x;
  to->y += numbers.y;
  to->z += numbers.z;
  to->w += numbers.w;
}
