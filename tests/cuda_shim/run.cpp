// The kernels of gdino_lib/ops/csrc/cuda_kernels.cuh, run through the shim; called from tests/gdino_lib/ops/test_cuda_source.py through ctypes.
#include "cuda_kernels.cuh"

namespace {

using cuda_shim::machine;

struct Arguments {  // must equal the structure in the Python file
  int64_t dtype;    // 0 float64, 1 float32, 2 float16, 3 bfloat16
  int64_t batch, tokens, queries, heads, channels, levels, points;
  const int64_t* shapes;
  const void *value, *locations, *weights, *grad_output;
  void *output, *grad_value, *grad_locations, *grad_weights;
  uint64_t seed;
};

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <typename T, typename A>
void run(const Arguments& a) {
  const gdino::Problem p = {a.batch, a.tokens, a.queries, int32_t(a.heads), int32_t(a.channels), int32_t(a.levels), int32_t(a.points)};
  gdino::Levels levels = {};
  int64_t start = 0;
  for (int64_t level = 0; level < a.levels; ++level) {
    levels.height[level] = int32_t(a.shapes[2 * level]);
    levels.width[level] = int32_t(a.shapes[2 * level + 1]);
    levels.start[level] = int32_t(start);
    start += a.shapes[2 * level] * a.shapes[2 * level + 1];
  }
  const auto* value = static_cast<const T*>(a.value);
  const auto *locations = static_cast<const A*>(a.locations), *weights = static_cast<const A*>(a.weights);
  const auto* grad_output = static_cast<const T*>(a.grad_output);
  const auto within = [](const auto* begin, int64_t count) {
    machine().tensors.push_back({reinterpret_cast<uintptr_t>(begin), reinterpret_cast<uintptr_t>(begin + count)});
  };
  const int64_t rows = p.batch * p.queries * p.heads, samples = rows * p.levels * p.points;
  machine().tensors.clear();
  within(value, p.batch * p.tokens * p.heads * p.channels);
  within(locations, 2 * samples);
  within(weights, samples);
  within(grad_output, rows * p.channels);
  within(static_cast<const A*>(a.grad_value), p.batch * p.tokens * p.heads * p.channels);
  gdino::choose_sizes<T>(p.channels, aligned(value) && aligned(grad_output), [&](auto vector, auto lanes) {
    constexpr int kVector = decltype(vector)::value, kLanes = decltype(lanes)::value, kRows = gdino::kThreads / kLanes;
    const unsigned blocks = unsigned((p.batch * p.queries * p.heads + kRows - 1) / kRows);
    if (!grad_output) {
      const gdino::Forward<T, A> t = {value, locations, weights, static_cast<T*>(a.output)};
      machine().launch(blocks, gdino::kThreads, a.seed, [&] { gdino::forward_kernel<T, A, kVector, kLanes>(p, levels, t); });
    } else {
      const gdino::Backward<T, A> t = {value, locations, weights, grad_output, static_cast<A*>(a.grad_value),
                                       static_cast<A*>(a.grad_locations), static_cast<A*>(a.grad_weights)};
      machine().launch(blocks, gdino::kThreads, a.seed, [&] { gdino::backward_kernel<T, A, kVector, kLanes>(p, levels, t); });
    }
  });
}

}  // namespace

// Runs the backward pass if there is a grad_output, else the forward pass. Returns an error message, or "".
extern "C" const char* run_kernel(const Arguments* a, cuda_shim::Counts* counts) {
  machine().error.clear();
  machine().counts = {};
  if (a->dtype == 0) run<double, double>(*a);
  if (a->dtype == 1) run<float, float>(*a);
  if (a->dtype == 2) run<__half, float>(*a);
  if (a->dtype == 3) run<__nv_bfloat16, float>(*a);
  *counts = machine().counts;
  return machine().error.c_str();
}

// The sizes of the kernel that is chosen for a type of `bytes` bytes.
extern "C" void sizes(int64_t bytes, int64_t channels, int64_t* vector, int64_t* lanes) {
  const auto keep = [&](auto v, auto l) { *vector = v, *lanes = l; };
  if (bytes == 8) gdino::choose_sizes<double>(channels, true, keep);
  if (bytes == 4) gdino::choose_sizes<float>(channels, true, keep);
  if (bytes == 2) gdino::choose_sizes<__half>(channels, true, keep);
}

// Tests the shim itself: `order` is the order in which 4 blocks of 64 threads begin. `waited` is what each lane reads of its neighbour's
// shared memory if it waits for the warp, and `hurried` if it does not wait (-1: the neighbour has not written yet).
extern "C" const char* run_order(uint64_t seed, int64_t* order, int64_t* waited, int64_t* hurried) {
  machine().error.clear();
  int64_t begun = 0;
  machine().launch(4, 64, seed, [&] {
    static int64_t shared[64], alone[64];
    const unsigned thread = threadIdx.x, index = blockIdx.x * 64 + thread;
    order[begun++] = index;
    shared[thread] = alone[thread] = -1;
    __syncwarp();
    alone[thread] = index;
    hurried[index] = alone[thread ^ 1];
    shared[thread] = index;
    __syncwarp();
    waited[index] = shared[thread ^ 1];
  });
  return machine().error.c_str();
}

// Half of a warp ends early and the other half waits for it, which is an error.
extern "C" const char* run_deadlock() {
  machine().error.clear();
  machine().launch(1, 32, 0, [] {
    if (threadIdx.x >= 16) __syncwarp();
  });
  return machine().error.c_str();
}
