// A primitive of MLX's graph whose evaluation on the CPU calls a function of Rust (primitive.rs). It allocates the output,
// or takes over the buffer of an input that nobody else needs; it knows no kernel.

#include "primitive.h"

#include <cstring>
#include <stdexcept>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/utils.h"

namespace sanctum {

void call(const sanctum_kernel& kernel, const std::vector<sanctum_view>& inputs, const sanctum_view& output) {
  if (kernel.run(kernel.state, inputs.data(), inputs.size(), &output) != 0) {
    throw std::runtime_error("a kernel panicked");
  }
}

bool can_be_taken(const mx::array& input) {
  return input.is_donatable() && input.offset() == 0 && input.flags().row_contiguous;
}

void HostKernel::eval_cpu(const std::vector<mx::array>& inputs, mx::array& output) {
  std::vector<mx::array> views;
  views.reserve(inputs.size() + 1);
  for (auto& input : inputs) {
    views.push_back(mx::array::unsafe_weak_copy(input));
  }
  bool copies = false;
  if (donor >= 0 && can_be_taken(inputs[donor])) {
    output.copy_shared_buffer(inputs[donor]);
  } else {
    if (donor >= 0 && !inputs[donor].flags().row_contiguous) {
      throw std::runtime_error("an array that is updated in place must be contiguous");
    }
    copies = donor >= 0;
    output.set_data(mx::allocator::malloc(output.nbytes()));
  }
  views.push_back(mx::array::unsafe_weak_copy(output));
  auto& encoder = mx::cpu::get_command_encoder(stream());
  encoder.dispatch([kernel = kernel, views = std::move(views), donor = copies ? donor : -1]() mutable {
    auto& out = views.back();
    if (donor >= 0) {
      std::memcpy(out.data<void>(), views[donor].data<void>(), out.nbytes());
    }
    std::vector<sanctum_view> seen;
    seen.reserve(views.size());
    for (auto& array : views) {
      seen.push_back(view(array));
    }
    auto output = seen.back();
    seen.pop_back();
    call(*kernel, seen, output);
  });
}

void HostKernel::eval_gpu(const std::vector<mx::array>&, mx::array&) {
  throw std::runtime_error("a kernel for the CPU was given to another device");
}

} // namespace sanctum

// A lazy array of floats, or of unsigned words; or null. `inputs` and the result are mlx-c's handles: pointers to arrays.
extern "C" void* sanctum_apply(sanctum_kernel kernel, int donor, void* const* inputs, size_t count,
                               const int32_t* shape, size_t dims, int words) {
  sanctum::Kernel owned(new sanctum_kernel(kernel), [](const sanctum_kernel* k) {
    k->drop(k->state);
    delete k;
  });
  try {
    std::vector<mx::array> operands;
    operands.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      operands.push_back(*static_cast<mx::array*>(inputs[i]));
    }
    auto primitive =
        std::make_shared<sanctum::HostKernel>(mx::to_stream(mx::Device::cpu), std::move(owned), donor);
    return new mx::array(mx::Shape(shape, shape + dims), words == 0 ? mx::float32 : mx::uint32,
                         std::move(primitive), std::move(operands));
  } catch (...) {
    return nullptr;
  }
}
