// What primitive.cpp and fuse.cpp share: how Rust's kernels are seen from C++, and the primitive that calls one.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/primitives.h"

namespace mx = mlx::core;

extern "C" {

struct sanctum_view {
  void* data;
  const int32_t* shape;
  const int64_t* strides;
  size_t dims;
};

// Calls and finally frees a kernel; `run` returns 0, or 1 after a panic.
struct sanctum_kernel {
  void* state;
  int (*run)(const void* state, const sanctum_view* inputs, size_t count, const sanctum_view* output);
  void (*drop)(void* state);
};
}

namespace sanctum {

using Kernel = std::shared_ptr<const sanctum_kernel>;

inline sanctum_view view(mx::array& a) {
  return {a.data<void>(), a.shape().data(), a.strides().data(), a.ndim()};
}

// Throws after a panic.
void call(const sanctum_kernel& kernel, const std::vector<sanctum_view>& inputs, const sanctum_view& output);

class HostKernel : public mx::UnaryPrimitive {
 public:
  // `donor`: the input whose contents the output begins with, or -1 for an output that begins undefined.
  HostKernel(mx::Stream stream, Kernel kernel, int donor)
      : UnaryPrimitive(stream), kernel(std::move(kernel)), donor(donor) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& output) override;
  void eval_gpu(const std::vector<mx::array>&, mx::array&) override;

  const char* name() const override {
    return "HostKernel";
  }

  const Kernel kernel;
  const int donor;
};

// The memory of an input, if it is nobody else's and lies as an output would; it may then become the output's.
bool can_be_taken(const mx::array& input);

} // namespace sanctum
