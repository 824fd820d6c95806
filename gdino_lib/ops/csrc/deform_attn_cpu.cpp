// Multi-scale deformable attention on the CPU: `gdino::ms_deform_attn` and its backward pass for tensors on the CPU.
// Python registers the schemas and the derivative (gdino_lib/ops/native.py) and checks the shapes (gdino_lib/ops/deform_attn.py).
#include <ATen/Parallel.h>
#include <torch/library.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#if defined(__GNUC__)
#define GDINO_INLINE inline __attribute__((always_inline))
#define GDINO_NOINLINE __attribute__((noinline))
#define GDINO_RESTRICT __restrict__
#define GDINO_PREFETCH(address) __builtin_prefetch(address)
#else
#define GDINO_INLINE inline
#define GDINO_NOINLINE
#define GDINO_RESTRICT __restrict
#define GDINO_PREFETCH(address)
#endif

// four lanes of two vectors: 0 to 3 are the lanes of a, 4 to 7 the lanes of b
#if defined(__clang__)
#define GDINO_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#elif defined(__GNUC__)
#define GDINO_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, decltype((a) < (b)){__VA_ARGS__})
#endif

namespace gdino {

// Letters as in the book: B batch, N image tokens, Q queries, H heads, L levels, P points, C channels per head.
struct Problem {
  int64_t batch, tokens, queries, heads, channels, levels, points;
};

// For each of a query's L * P points, its level; padded to whole runs. A: double if the values are double, else float.
template <typename A>
struct Levels {
  std::vector<A> width, height;
  std::vector<int32_t> start;  // the level's first token
};

// T: type of values and outputs; A: type of locations, weights and sums. All tensors are contiguous.
template <typename T, typename A>
struct Forward {
  const T* value;      // [B, N, H, C]
  const A* locations;  // [B, Q, H, L, P, 2]: x, y in 0..1
  const A* weights;    // [B, Q, H, L, P]
  T* output;           // [B, Q, H, C]
};

template <typename T, typename A>
struct Backward {
  const T* value;
  const A* locations;
  const A* weights;
  const T* grad_output;  // [B, Q, H, C]
  A* grad_value;         // [B, N, H, C]; must be zero at first
  A* grad_locations;     // must be zero at first
  A* grad_weights;       // must be zero at first
};

constexpr int64_t kRun = 32;    // at most this many points are located at once,
constexpr int64_t kWhole = 16;  // padded to a multiple of this number

struct Bits16 {  // the bits of a bfloat16
  uint16_t bits;
};

inline Bits16 round_to_bits16(float number) {  // to nearest, ties to even
  uint32_t word;
  std::memcpy(&word, &number, 4);
  if ((word & 0x7fffffffu) > 0x7f800000u) return {0x7fc0};  // NaN
  return {uint16_t((word + 0x7fffu + ((word >> 16) & 1)) >> 16)};
}
inline Bits16 round_to_bits16(double number) { return round_to_bits16(float(number)); }

namespace plain {
constexpr int kVectorBytes = 16;
#include "cpu_kernels.inc"
}  // namespace plain

#if defined(__x86_64__) && defined(__GNUC__)
#define GDINO_X86 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
constexpr int kVectorBytes = 32;
#include "cpu_kernels.inc"
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
namespace avx512 {
constexpr int kVectorBytes = 64;
#include "cpu_kernels.inc"
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

// The instruction sets with kernels of their own. GDINO_CPU in the environment (plain, avx2, avx512) limits the choice.
enum class Isa { plain, avx2, avx512 };

Isa choose_isa() {
#if defined(GDINO_X86)
  const char* name = std::getenv("GDINO_CPU");
  const std::string wish = name ? name : "avx512";
  __builtin_cpu_init();
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool wide = fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (wish == "avx512" && wide) return Isa::avx512;
  if (wish != "plain" && fma) return Isa::avx2;
#endif
  return Isa::plain;
}

Isa isa() {
  static const Isa chosen = choose_isa();
  return chosen;
}

#if defined(GDINO_X86)
#define GDINO_DISPATCH(CALL)                     \
  switch (isa()) {                               \
    case Isa::avx512: avx512::CALL; break;       \
    case Isa::avx2: avx2::CALL; break;           \
    default: plain::CALL;                        \
  }
#else
#define GDINO_DISPATCH(CALL) plain::CALL;
#endif

template <typename A>
Levels<A> levels_of(const Problem& p, at::IntArrayRef shapes) {
  Levels<A> levels;
  int64_t start = 0;
  for (int64_t level = 0; level < p.levels; ++level) {
    const int64_t height = shapes[2 * level], width = shapes[2 * level + 1];
    for (int64_t point = 0; point < p.points; ++point) {
      levels.width.push_back(A(width));
      levels.height.push_back(A(height));
      levels.start.push_back(int32_t(start));
    }
    start += height * width;
  }
  const size_t whole = (levels.width.size() + kRun - 1) / kRun * kRun;  // padding: points on a level of 0 x 0 tokens
  levels.width.resize(whole);
  levels.height.resize(whole);
  levels.start.resize(whole);
  return levels;
}

Problem problem_of(const at::Tensor& value, const at::Tensor& weights) {
  TORCH_CHECK(value.size(1) < INT32_MAX, "ms_deform_attn: more image tokens than 32 bits can count");
  return {value.size(0), value.size(1), weights.size(1), value.size(2), value.size(3), weights.size(3), weights.size(4)};
}

template <typename T, typename A>
void run_forward(const Problem& p, at::IntArrayRef shapes, const Forward<T, A>& t) {
  const Levels<A> levels = levels_of<A>(p, shapes);
  constexpr int64_t kQueries = 1024;  // at most this many queries of one head are a task
  const int64_t blocks = (p.queries + kQueries - 1) / kQueries;
  at::parallel_for(0, p.batch * p.heads * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t block = task % blocks, h = task / blocks % p.heads, b = task / blocks / p.heads;
      const int64_t q0 = block * kQueries, q1 = std::min(q0 + kQueries, p.queries);
      GDINO_DISPATCH(forward_task(p, levels, t, b, h, q0, q1))
    }
  });
}

template <typename T, typename A>
void run_backward(const Problem& p, at::IntArrayRef shapes, const Backward<T, A>& t) {
  const Levels<A> levels = levels_of<A>(p, shapes);
  at::parallel_for(0, p.batch * p.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      GDINO_DISPATCH(backward_task(p, levels, t, task / p.heads, task % p.heads))
    }
  });
}

const Bits16* bits(const at::Tensor& tensor) { return reinterpret_cast<const Bits16*>(tensor.const_data_ptr()); }

at::Tensor forward(const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& locations, const at::Tensor& weights) {
  const Problem p = problem_of(value, weights);
  const at::Tensor v = value.contiguous(), x = locations.contiguous(), w = weights.contiguous();
  at::Tensor output = at::empty({p.batch, p.queries, p.heads * p.channels}, value.options());
  if (value.scalar_type() == at::kDouble) {
    run_forward<double, double>(
        p, shapes, {v.const_data_ptr<double>(), x.const_data_ptr<double>(), w.const_data_ptr<double>(), output.mutable_data_ptr<double>()});
  } else if (value.scalar_type() == at::kFloat) {
    run_forward<float, float>(
        p, shapes, {v.const_data_ptr<float>(), x.const_data_ptr<float>(), w.const_data_ptr<float>(), output.mutable_data_ptr<float>()});
  } else if (value.scalar_type() == at::kBFloat16) {
    run_forward<Bits16, float>(
        p, shapes, {bits(v), x.const_data_ptr<float>(), w.const_data_ptr<float>(), reinterpret_cast<Bits16*>(output.mutable_data_ptr())});
  } else {  // float16 is converted once as a whole: most processors have no fast conversion to float32
    return forward(value.to(at::kFloat), shapes, locations, weights).to(value.scalar_type());
  }
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(
    const at::Tensor& grad_output, const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& locations, const at::Tensor& weights) {
  const Problem p = problem_of(value, weights);
  const at::Tensor g = grad_output.contiguous(), v = value.contiguous(), x = locations.contiguous(), w = weights.contiguous();
  at::Tensor grad_value = at::zeros(value.sizes(), locations.options());
  at::Tensor grad_x = at::zeros(locations.sizes(), locations.options()), grad_w = at::zeros(weights.sizes(), weights.options());
  if (value.scalar_type() == at::kDouble) {
    run_backward<double, double>(
        p, shapes, {v.const_data_ptr<double>(), x.const_data_ptr<double>(), w.const_data_ptr<double>(), g.const_data_ptr<double>(),
                    grad_value.mutable_data_ptr<double>(), grad_x.mutable_data_ptr<double>(), grad_w.mutable_data_ptr<double>()});
  } else if (value.scalar_type() == at::kFloat) {
    run_backward<float, float>(
        p, shapes, {v.const_data_ptr<float>(), x.const_data_ptr<float>(), w.const_data_ptr<float>(), g.const_data_ptr<float>(),
                    grad_value.mutable_data_ptr<float>(), grad_x.mutable_data_ptr<float>(), grad_w.mutable_data_ptr<float>()});
  } else if (value.scalar_type() == at::kBFloat16) {
    run_backward<Bits16, float>(
        p, shapes, {bits(v), x.const_data_ptr<float>(), w.const_data_ptr<float>(), bits(g), grad_value.mutable_data_ptr<float>(),
                    grad_x.mutable_data_ptr<float>(), grad_w.mutable_data_ptr<float>()});
  } else {
    return backward(grad_output.to(at::kFloat), value.to(at::kFloat), shapes, locations, weights);
  }
  return {grad_value, grad_x, grad_w};
}

}  // namespace gdino

TORCH_LIBRARY_IMPL(gdino, CPU, m) {
  m.impl("ms_deform_attn", &gdino::forward);
  m.impl("ms_deform_attn_backward", &gdino::backward);
}
