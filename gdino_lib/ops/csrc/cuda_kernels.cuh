// The CUDA kernels of multi-scale deformable attention, forward and backward. They need CUDA's own headers only. So the tests can compile
// this file for every architecture, and compile it with g++ and tests/cuda_shim to run it on the CPU.
//
// A row is one head of one query: L * P sampling points, and an output of C channels. A group of kLanes neighbouring threads of a warp
// computes a row; each thread (lane) computes kVector channels, which are 16 bytes. The group takes the points in runs of kLanes. First,
// each lane locates one point of the run and writes what the other lanes need to shared memory. Then the group walks through the run, all
// lanes at the same point. So each point is located once, not once per lane, and the lanes load a corner as one contiguous piece.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace gdino {

constexpr int kThreads = 128;  // per block; few, so that the decoder's 900 queries spread evenly over the multiprocessors
constexpr int kBlocks = 7;  // forward kernel: at least this many blocks per multiprocessor, to overlap loads; 72 registers per thread
constexpr int kMaxLevels = 32;
constexpr unsigned kWarp = 0xffffffffu;  // all lanes take part in every exchange

// Letters as in the book: B batch, N image tokens, Q queries, H heads, L levels, P points, C channels per head.
struct Problem {
  int64_t batch, tokens, queries;
  int32_t heads, channels, levels, points;
};

struct Levels {  // passed to a kernel by value, so that no copy to the device is needed
  int32_t height[kMaxLevels], width[kMaxLevels];
  int32_t start[kMaxLevels];  // the level's first token
};

// T: type of values and outputs. A: type of locations, weights and sums; double if T is double, else float. All tensors are contiguous.
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
  A* grad_locations;     // every element is written
  A* grad_weights;       // every element is written
};

__device__ inline float widen(float number) { return number; }
__device__ inline double widen(double number) { return number; }
__device__ inline float widen(__half number) { return __half2float(number); }
__device__ inline float widen(__nv_bfloat16 number) { return __bfloat162float(number); }

__device__ inline void narrow(float number, float& to) { to = number; }
__device__ inline void narrow(double number, double& to) { to = number; }
__device__ inline void narrow(float number, __half& to) { to = __float2half_rn(number); }
__device__ inline void narrow(float number, __nv_bfloat16& to) { to = __float2bfloat16_rn(number); }

// kVector neighbouring elements, loaded or stored by one instruction. __ldg promises the compiler that nothing writes them while the
// kernel runs. So the compiler may load elements for the next point before the additions of this point are done.
template <typename T, int kVector>
struct alignas(sizeof(T) * kVector) Pack {
  T element[kVector];

  __device__ static Pack zero() {
    Pack pack;
    for (int i = 0; i < kVector; ++i) narrow(0, pack.element[i]);
    return pack;
  }
  // Loads the pack that lies `place` packs behind `from`. One instruction adds an index of 32 bits to an address.
  __device__ static Pack load(const T* from, int32_t place = 0) {
    Pack pack;
    if constexpr (sizeof(Pack) == 16) {
      *reinterpret_cast<uint4*>(&pack) = __ldg(reinterpret_cast<const uint4*>(from) + place);
    } else if constexpr (sizeof(Pack) == 8) {
      *reinterpret_cast<uint2*>(&pack) = __ldg(reinterpret_cast<const uint2*>(from) + place);
    } else {
      for (int i = 0; i < kVector; ++i) pack.element[i] = __ldg(from + place * kVector + i);
    }
    return pack;
  }
  __device__ void store(T* to) const { *reinterpret_cast<Pack*>(to) = *this; }
};

// The four corners of a sampling point: top left, top right, bottom left, bottom right.
struct alignas(16) Corners {
  int32_t pack[4];  // where the channels of the corner's token begin, in packs from the image's first token; -1 outside the level
};

template <typename A>
struct alignas(16) Shares {
  A of[4];
};

template <typename A>
struct Point {
  Corners corners;
  A dx, dy;  // distance from the top left corner, in tokens
  A weight, width, height;

  __device__ Shares<A> shares() const { return {{(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx}}; }
  __device__ Shares<A> weighted_shares() const {
    Shares<A> s = shares();
    for (int k = 0; k < 4; ++k) s.of[k] *= weight;
    return s;
  }
};

// Locates point `index` of a row; `locations` and `weights` point to the row's first. A point that does not exist lies outside all
// levels. Neighbouring tokens are `stride` packs apart.
template <typename A>
__device__ Point<A> locate(
    const Problem& p, const Levels& levels, const A* locations, const A* weights, int32_t stride, int32_t index, bool exists) {
  Point<A> point = {{{-1, -1, -1, -1}}, 0, 0, 0, 0, 0};
  if (!exists) return point;
  const int32_t level = index / p.points;
  const int32_t width = levels.width[level], height = levels.height[level];
  point.weight = __ldg(weights + index);
  point.width = A(width);
  point.height = A(height);
  const A x = __ldg(locations + 2 * index) * point.width - A(0.5), y = __ldg(locations + 2 * index + 1) * point.height - A(0.5);
  if (!(x >= -1 && y >= -1 && x < point.width && y < point.height)) return point;  // far outside, or not a number
  const int32_t x0 = int32_t(floor(x)), y0 = int32_t(floor(y));
  point.dx = x - A(x0);
  point.dy = y - A(y0);
  const bool left = x0 >= 0, right = x0 + 1 < width, top = y0 >= 0, bottom = y0 + 1 < height;
  const int32_t token = levels.start[level] + y0 * width + x0;
  point.corners.pack[0] = top && left ? token * stride : -1;
  point.corners.pack[1] = top && right ? (token + 1) * stride : -1;
  point.corners.pack[2] = bottom && left ? (token + width) * stride : -1;
  point.corners.pack[3] = bottom && right ? (token + width + 1) * stride : -1;
  return point;
}

// Each block computes kThreads / kLanes rows. Threads for rows beyond the last one locate no point and write nothing. They do not end
// early, because an exchange between lanes needs the whole warp.
template <typename T, typename A, int kVector, int kLanes>
__global__ void __launch_bounds__(kThreads, kBlocks) forward_kernel(const Problem p, const Levels levels, const Forward<T, A> t) {
  __shared__ Corners corners[kThreads];  // each lane's own point of the run
  __shared__ Shares<A> shares[kThreads];
  const int lane = threadIdx.x % kLanes, group = threadIdx.x - lane;  // group: the number of its first thread
  // Neighbouring groups compute neighbouring queries of the same head. These read the same places, which are then in the cache.
  const int64_t index = int64_t(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;  // of (b, h, q)
  const bool exists = index < p.batch * p.heads * p.queries;
  const int64_t q = index % p.queries, bh = index / p.queries;
  const int64_t b = bh / p.heads, h = bh % p.heads;
  const int64_t row = (b * p.queries + q) * p.heads + h;
  const int32_t count = p.levels * p.points, stride = p.heads * p.channels / kVector;
  const A *locations = t.locations + 2 * row * count, *weights = t.weights + row * count;

  for (int32_t base = 0; base < (kLanes < 32 ? 1 : p.channels); base += kLanes * kVector) {  // only the widest groups need several passes
    const int32_t c = base + lane * kVector;
    const bool works = exists && c < p.channels;  // if false, the lane only locates points
    const T* values = t.value + (b * p.tokens * p.heads + h) * p.channels + c;
    A sum[kVector] = {};
    for (int32_t first = 0; first < count; first += kLanes) {
      const Point<A> mine = locate(p, levels, locations, weights, stride, first + lane, exists && first + lane < count);
      corners[threadIdx.x] = mine.corners;
      shares[threadIdx.x] = mine.weighted_shares();
      __syncwarp();  // now every lane may read the others' points
      const int32_t run = count - first < kLanes ? count - first : kLanes;
#pragma unroll 2
      for (int32_t i = 0; i < run; ++i) {
        const Corners at = corners[group + i];
        const Shares<A> share = shares[group + i];
        Pack<T, kVector> pack[4];  // loaded before the first is used, so that the loads overlap
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          pack[k] = works && at.pack[k] >= 0 ? Pack<T, kVector>::load(values, at.pack[k]) : Pack<T, kVector>::zero();
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
          for (int v = 0; v < kVector; ++v) sum[v] += share.of[k] * widen(pack[k].element[v]);
        }
      }
      __syncwarp();  // all have read, so the next run may overwrite the points
    }
    if (works) {
      Pack<T, kVector> pack;
      for (int v = 0; v < kVector; ++v) narrow(sum[v], pack.element[v]);
      pack.store(t.output + row * p.channels + c);
    }
  }
}

// The sum of one number per lane over the group, returned to every lane. The order of the additions is fixed, and so is the result.
template <int kLanes, typename A>
__device__ A group_sum(A number) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) number += __shfl_xor_sync(kWarp, number, distance);
  return number;
}

// How many numbers one atomic instruction adds. From Hopper on, one instruction can add four neighbouring float32 numbers.
template <typename A, int kVector>
struct Atomic {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  static constexpr int kWidth = std::is_same<A, float>::value && kVector % 4 == 0 ? 4 : 1;
#else
  static constexpr int kWidth = 1;
#endif
};

template <int kWidth, typename A>
__device__ void atomic_add(A* to, const A* numbers, A factor) {
  if constexpr (kWidth == 1) {
    atomicAdd(to, factor * numbers[0]);
  } else {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    const float4 sums = make_float4(factor * numbers[0], factor * numbers[1], factor * numbers[2], factor * numbers[3]);
    atomicAdd(reinterpret_cast<float4*>(to), sums);
#endif
  }
}

// Let g be the gradient of a row's output, v_k the values at a point's corners, s_k their bilinear weights ("shares") and w the point's
// attention weight. With the products p_k = g . v_k, summed over the lanes of the group, the gradients are:
//   weight        sum_k s_k p_k
//   location      w * width * ((1 - dy)(p_1 - p_0) + dy (p_3 - p_2)), and likewise in y
//   value at k    w s_k g, added atomically, because many rows add to one token
// Only the rounding of the last depends on the order in which the threads run.
template <typename T, typename A, int kVector, int kLanes>
__global__ void __launch_bounds__(kThreads) backward_kernel(const Problem p, const Levels levels, const Backward<T, A> t) {
  __shared__ Corners corners[kThreads];
  __shared__ Shares<A> shares[kThreads];
  const int lane = threadIdx.x % kLanes, group = threadIdx.x - lane;
  // Neighbouring groups compute different heads of one query, so they never add to the same address at the same time.
  const int64_t row = int64_t(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;  // of (b, q, h)
  const bool exists = row < p.batch * p.queries * p.heads;
  const int64_t b = row / (p.queries * p.heads), h = row % p.heads;
  const int32_t count = p.levels * p.points, stride = p.heads * p.channels / kVector;
  const A *locations = t.locations + 2 * row * count, *weights = t.weights + row * count;

  // For the atomic additions, the channels are distributed in stripes: lane 0 takes the first kWidth numbers, lane 1 the next, and so on;
  // after the last lane, lane 0 takes the following ones. So the lanes of a group together add to one contiguous piece.
  constexpr int kWidth = Atomic<A, kVector>::kWidth, kStripes = kVector / kWidth;

  for (int32_t base = 0; base < (kLanes < 32 ? 1 : p.channels); base += kLanes * kVector) {
    const int32_t c = base + lane * kVector;
    const bool works = exists && c < p.channels;
    const int64_t offset = (b * p.tokens * p.heads + h) * p.channels;
    const T* values = t.value + offset + c;
    A* grad_values = t.grad_value + offset + base + lane * kWidth;

    A gradient[kVector] = {}, striped[kStripes][kWidth] = {};
    if (works) {
      const auto pack = Pack<T, kVector>::load(t.grad_output + row * p.channels + c);
      for (int v = 0; v < kVector; ++v) gradient[v] = widen(pack.element[v]);
    }
    int stripes = 0;  // number of this lane's stripes; fewer at the last channels
#pragma unroll
    for (int s = 0; s < kStripes; ++s) {
      const int32_t from = base + (s * kLanes + lane) * kWidth;
      if (!exists || from >= p.channels) continue;
      stripes = s + 1;
      const auto pack = Pack<T, kWidth>::load(t.grad_output + row * p.channels + from);
      for (int i = 0; i < kWidth; ++i) striped[s][i] = widen(pack.element[i]);
    }

    for (int32_t first = 0; first < count; first += kLanes) {
      const bool owns = exists && first + lane < count;  // this lane has a point of the run
      const Point<A> mine = locate(p, levels, locations, weights, stride, first + lane, owns);
      corners[threadIdx.x] = mine.corners;
      shares[threadIdx.x] = mine.weighted_shares();
      __syncwarp();
      A product[4] = {};  // p_k of this lane's point
      const int32_t run = count - first < kLanes ? count - first : kLanes;
      for (int32_t i = 0; i < run; ++i) {
        const Corners at = corners[group + i];
        const Shares<A> share = shares[group + i];
        Pack<T, kVector> pack[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          pack[k] = works && at.pack[k] >= 0 ? Pack<T, kVector>::load(values, at.pack[k]) : Pack<T, kVector>::zero();
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (at.pack[k] < 0) continue;  // the same for the whole group
          A* to = grad_values + int64_t(at.pack[k]) * kVector;
#pragma unroll
          for (int s = 0; s < kStripes; ++s) {
            if (s < stripes) atomic_add<kWidth>(to + s * kLanes * kWidth, striped[s], share.of[k]);
          }
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          A part = 0;
#pragma unroll
          for (int v = 0; v < kVector; ++v) part += gradient[v] * widen(pack[k].element[v]);
          part = group_sum<kLanes>(part);
          if (i == lane && at.pack[k] >= 0) product[k] = part;
        }
      }
      __syncwarp();
      if (owns) {
        const Shares<A> s = mine.shares();
        A by_weight = 0;
        for (int k = 0; k < 4; ++k) by_weight += s.of[k] * product[k];
        const A by_x = (1 - mine.dy) * (product[1] - product[0]) + mine.dy * (product[3] - product[2]);
        const A by_y = (1 - mine.dx) * (product[2] - product[0]) + mine.dx * (product[3] - product[1]);
        const int64_t place = row * count + first + lane;
        const bool again = base > 0;  // an earlier pass of this lane has written the part of other channels
        t.grad_weights[place] = by_weight + (again ? t.grad_weights[place] : 0);
        t.grad_locations[2 * place] = mine.weight * mine.width * by_x + (again ? t.grad_locations[2 * place] : 0);
        t.grad_locations[2 * place + 1] = mine.weight * mine.height * by_y + (again ? t.grad_locations[2 * place + 1] : 0);
      }
    }
  }
}

// Calls with_sizes(kVector, kLanes) for a head of `channels` channels: 16 bytes per lane, and as few lanes as cover the head, 4 to 32. If
// the head's width or a tensor's address is not a multiple of 16 bytes, each lane computes single elements.
template <typename T, typename WithSizes>
void choose_sizes(int64_t channels, bool aligned, WithSizes&& with_sizes) {
  constexpr int kVector = 16 / int(sizeof(T));
  const int64_t vectors = channels / kVector;
  if (!aligned || channels % kVector != 0) {
    with_sizes(std::integral_constant<int, 1>(), std::integral_constant<int, 32>());
  } else if (vectors <= 4) {
    with_sizes(std::integral_constant<int, kVector>(), std::integral_constant<int, 4>());
  } else if (vectors <= 8) {
    with_sizes(std::integral_constant<int, kVector>(), std::integral_constant<int, 8>());
  } else if (vectors <= 16) {
    with_sizes(std::integral_constant<int, kVector>(), std::integral_constant<int, 16>());
  } else {
    with_sizes(std::integral_constant<int, kVector>(), std::integral_constant<int, 32>());
  }
}

}  // namespace gdino
