// The one C++ file: a primitive of MLX's graph whose evaluation on the CPU calls a function of Rust (primitive.rs). It
// allocates the output, or takes over the buffer of an input that nobody else needs; it knows no kernel.

#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"

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

namespace {

sanctum_view view(mx::array& a) {
  return {a.data<void>(), a.shape().data(), a.strides().data(), a.ndim()};
}

class HostKernel : public mx::UnaryPrimitive {
 public:
  // `donor`: the input whose contents the output begins with, or -1 for an output that begins undefined.
  HostKernel(mx::Stream stream, sanctum_kernel kernel, int donor)
      : UnaryPrimitive(stream), kernel_(new sanctum_kernel(kernel), [](sanctum_kernel* k) {
          k->drop(k->state);
          delete k;
        }),
        donor_(donor) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& output) override {
    std::vector<mx::array> views;
    views.reserve(inputs.size() + 1);
    for (auto& input : inputs) {
      views.push_back(mx::array::unsafe_weak_copy(input));
    }
    bool copies = false;
    if (donor_ >= 0) {
      auto& donor = inputs[donor_];
      if (!donor.flags().row_contiguous) {
        throw std::runtime_error("an array that is updated in place must be contiguous");
      }
      if (donor.is_donatable() && donor.offset() == 0) {
        output.copy_shared_buffer(donor);
      } else {
        copies = true;
      }
    }
    if (donor_ < 0 || copies) {
      output.set_data(mx::allocator::malloc(output.nbytes()));
    }
    views.push_back(mx::array::unsafe_weak_copy(output));
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([kernel = kernel_, views = std::move(views), donor = copies ? donor_ : -1]() mutable {
      auto& out = views.back();
      if (donor >= 0) {
        std::memcpy(out.data<void>(), views[donor].data<void>(), out.nbytes());
      }
      std::vector<sanctum_view> seen;
      seen.reserve(views.size());
      for (auto& array : views) {
        seen.push_back(view(array));
      }
      if (kernel->run(kernel->state, seen.data(), seen.size() - 1, &seen.back()) != 0) {
        throw std::runtime_error("a kernel panicked");
      }
    });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw std::runtime_error("a kernel for the CPU was given to another device");
  }

  const char* name() const override {
    return "HostKernel";
  }

 private:
  std::shared_ptr<sanctum_kernel> kernel_;
  int donor_;
};

} // namespace

// A lazy array of `dtype` 0 (f32) or 1 (u32), or null. `inputs` and the result are mlx-c's handles: pointers to arrays.
extern "C" void* sanctum_apply(sanctum_kernel kernel, int donor, void* const* inputs, size_t count,
                               const int32_t* shape, size_t dims, int dtype) {
  try {
    std::vector<mx::array> operands;
    operands.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      operands.push_back(*static_cast<mx::array*>(inputs[i]));
    }
    auto primitive = std::make_shared<HostKernel>(mx::to_stream(mx::Device::cpu), kernel, donor);
    return new mx::array(mx::Shape(shape, shape + dims), dtype == 0 ? mx::float32 : mx::uint32,
                         std::move(primitive), std::move(operands));
  } catch (...) {
    return nullptr;
  }
}
