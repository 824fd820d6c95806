// Multi-scale deformable attention on a GPU: `gdino::ms_deform_attn` and its backward pass for CUDA tensors. cuda_kernels.cuh has the
// kernels. Python registers the schemas and the derivative (gdino_lib/ops/native.py) and checks the shapes (gdino_lib/ops/deform_attn.py).
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cstdint>
#include <tuple>

#include "cuda_kernels.cuh"

namespace gdino {

Problem problem_of(const at::Tensor& value, const at::Tensor& weights) {
  return {value.size(0),          value.size(1),          weights.size(1),        int32_t(value.size(2)),
          int32_t(value.size(3)), int32_t(weights.size(3)), int32_t(weights.size(4))};
}

Levels levels_of(at::IntArrayRef shapes) {
  // The message spells the number out: a library that is linked with a toolchain's own libstdc++ crashes when it formats a number.
  static_assert(kMaxLevels == 32, "the message below says 32");
  TORCH_CHECK(shapes.size() <= 2 * kMaxLevels, "ms_deform_attn: more than 32 levels");
  Levels levels = {};
  int64_t start = 0;
  for (size_t level = 0; level < shapes.size() / 2; ++level) {
    levels.height[level] = int32_t(shapes[2 * level]);
    levels.width[level] = int32_t(shapes[2 * level + 1]);
    levels.start[level] = int32_t(start);
    start += shapes[2 * level] * shapes[2 * level + 1];
  }
  return levels;
}

// Whether 16-byte loads can begin at the tensor's first element; a contiguous slice of a tensor can begin at any address.
bool aligned(const at::Tensor& tensor) { return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0; }

// The number of blocks; 0 if there is nothing to do. The kernels count the packs of kVector numbers in an image with 32 bits.
unsigned blocks_for(const Problem& p, int vector, int lanes) {
  const int64_t packs = p.tokens * p.heads * p.channels / vector, rows_per_block = kThreads / lanes;
  const int64_t blocks = (p.batch * p.queries * p.heads + rows_per_block - 1) / rows_per_block;
  TORCH_CHECK(packs <= INT32_MAX && blocks <= INT32_MAX, "ms_deform_attn: more values than the kernels can count");
  return unsigned(blocks);
}

template <typename T, typename A>
void run_forward(
    const Problem& p, const Levels& levels, const at::Tensor& value, const at::Tensor& locations, const at::Tensor& weights,
    at::Tensor& output) {
  const Forward<T, A> t = {
      reinterpret_cast<const T*>(value.const_data_ptr()), locations.const_data_ptr<A>(), weights.const_data_ptr<A>(),
      reinterpret_cast<T*>(output.mutable_data_ptr())};
  choose_sizes<T>(p.channels, aligned(value), [&](auto vector, auto lanes) {
    constexpr int kVector = decltype(vector)::value, kLanes = decltype(lanes)::value;
    if (const unsigned blocks = blocks_for(p, kVector, kLanes)) {
      forward_kernel<T, A, kVector, kLanes><<<blocks, kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(p, levels, t);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    }
  });
}

template <typename T, typename A>
void run_backward(
    const Problem& p, const Levels& levels, const at::Tensor& grad_output, const at::Tensor& value, const at::Tensor& locations,
    const at::Tensor& weights, at::Tensor& grad_value, at::Tensor& grad_locations, at::Tensor& grad_weights) {
  const Backward<T, A> t = {
      reinterpret_cast<const T*>(value.const_data_ptr()), locations.const_data_ptr<A>(), weights.const_data_ptr<A>(),
      reinterpret_cast<const T*>(grad_output.const_data_ptr()), grad_value.mutable_data_ptr<A>(), grad_locations.mutable_data_ptr<A>(),
      grad_weights.mutable_data_ptr<A>()};
  choose_sizes<T>(p.channels, aligned(value) && aligned(grad_output), [&](auto vector, auto lanes) {
    constexpr int kVector = decltype(vector)::value, kLanes = decltype(lanes)::value;
    if (const unsigned blocks = blocks_for(p, kVector, kLanes)) {
      backward_kernel<T, A, kVector, kLanes><<<blocks, kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(p, levels, t);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    }
  });
}

// Calls with_types(T(), A()) for the dtype of the values; only the types of the arguments matter.
template <typename WithTypes>
void choose_types(at::ScalarType dtype, WithTypes&& with_types) {
  switch (dtype) {
    case at::kFloat: return with_types(float(), float());
    case at::kDouble: return with_types(double(), double());
    case at::kHalf: return with_types(__half(), float());
    case at::kBFloat16: return with_types(__nv_bfloat16(), float());
    default: TORCH_CHECK(false, "ms_deform_attn: no kernel for values of ", dtype);
  }
}

at::Tensor forward(const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& locations, const at::Tensor& weights) {
  const c10::cuda::CUDAGuard guard(value.device());  // run on the tensors' device, even if another device is current
  const Problem p = problem_of(value, weights);
  const Levels levels = levels_of(shapes);
  const at::Tensor v = value.contiguous(), x = locations.contiguous(), w = weights.contiguous();
  at::Tensor output = at::empty({p.batch, p.queries, p.heads * p.channels}, value.options());
  choose_types(value.scalar_type(), [&](auto t, auto a) { run_forward<decltype(t), decltype(a)>(p, levels, v, x, w, output); });
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(
    const at::Tensor& grad_output, const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& locations, const at::Tensor& weights) {
  at::globalContext().alertNotDeterministic("gdino::ms_deform_attn_backward on CUDA");  // its atomic additions have no fixed order
  const c10::cuda::CUDAGuard guard(value.device());
  const Problem p = problem_of(value, weights);
  const Levels levels = levels_of(shapes);
  const at::Tensor g = grad_output.contiguous(), v = value.contiguous(), x = locations.contiguous(), w = weights.contiguous();
  at::Tensor grad_value = at::zeros(value.sizes(), locations.options());
  at::Tensor grad_x = at::empty(locations.sizes(), locations.options()), grad_w = at::empty(weights.sizes(), weights.options());
  choose_types(value.scalar_type(), [&](auto t, auto a) {
    run_backward<decltype(t), decltype(a)>(p, levels, g, v, x, w, grad_value, grad_x, grad_w);
  });
  return {grad_value, grad_x, grad_w};
}

}  // namespace gdino

TORCH_LIBRARY_IMPL(gdino, CUDA, m) {
  m.impl("ms_deform_attn", &gdino::forward);
  m.impl("ms_deform_attn_backward", &gdino::backward);
}
