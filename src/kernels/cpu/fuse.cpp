// Several HostKernels of a graph as one primitive (fuse.rs). It finds those that the given arrays are made by, places what
// lies between them in one buffer, and calls them in order; it knows no kernel.
//
// What MLX then does once for all of them: schedule, allocate, keep buffers, wake its threads. What each computes, from
// which memory layouts and in which order, stays the same.

#include "primitive.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <unordered_map>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/utils.h"

namespace sanctum {
namespace {

// Places in the buffer are multiples of this.
constexpr size_t ALIGNMENT = 64;
constexpr size_t NOWHERE = SIZE_MAX;

// One kernel. Slots number the constants, then the inputs, then what each step makes.
struct Step {
  Kernel kernel;
  int donor;
  std::vector<size_t> inputs;
  mx::Shape shape;
  mx::Strides strides;
  size_t bytes;
  // Which output of the primitive it makes, or NOWHERE.
  size_t output = NOWHERE;
  // Where in the buffer what it makes lies, if it is no output.
  size_t place = NOWHERE;
  // The last step that reads what it makes.
  size_t last_use = 0;
};

struct Plan {
  std::vector<Step> steps;
  // What is there already and stays as it is: weights. Were they inputs of the graph, each output would name them all.
  std::vector<mx::array> constants;
  // Steps that read each input.
  std::vector<size_t> uses;
  size_t buffer_bytes = 0;

  // The slot of the first input.
  size_t first_input() const {
    return constants.size();
  }

  // The slot of what the first step makes.
  size_t first_step() const {
    return constants.size() + uses.size();
  }
};

// The kernels that `roots` are made by and that have not run, each after those that it reads from.
class Search {
 public:
  Plan plan;
  std::vector<mx::array> inputs;

  explicit Search(const std::vector<mx::array>& roots) {
    for (auto& root : roots) {
      visit(root);
    }
    for (size_t step = 0; step < arrays_.size(); ++step) {
      for (size_t place = 0; place < arrays_[step].inputs().size(); ++place) {
        sort(arrays_[step].inputs()[place], step, static_cast<int>(place) == plan.steps[step].donor);
      }
    }
    plan.uses.resize(inputs.size(), 0);
    for (size_t step = 0; step < arrays_.size(); ++step) {
      for (auto& input : arrays_[step].inputs()) {
        plan.steps[step].inputs.push_back(slot(input));
      }
    }
  }

  // The step that makes an array, or NOWHERE.
  size_t step_of(const mx::array& array) const {
    auto found = steps_.find(array.id());
    return found == steps_.end() ? NOWHERE : found->second;
  }

 private:
  std::unordered_map<std::uintptr_t, size_t> steps_, inputs_, constants_;
  std::vector<mx::array> arrays_;

  void visit(const mx::array& array) {
    if (array.status() != mx::array::Status::unscheduled || !array.has_primitive() || steps_.count(array.id()) > 0) {
      return;
    }
    auto* primitive = dynamic_cast<HostKernel*>(&array.primitive());
    if (primitive == nullptr) {
      return;
    }
    for (auto& input : array.inputs()) {
      visit(input);
    }
    mx::Strides strides(array.ndim());
    int64_t stride = 1;
    for (size_t axis = array.ndim(); axis-- > 0;) {
      strides[axis] = stride;
      stride *= array.shape(axis);
    }
    steps_.emplace(array.id(), plan.steps.size());
    arrays_.push_back(array);
    plan.steps.push_back({primitive->kernel, primitive->donor, {}, array.shape(), std::move(strides), array.nbytes()});
  }

  // Finds out what an input of a step is.
  void sort(const mx::array& input, size_t reader, bool donates) {
    if (auto made = step_of(input); made != NOWHERE) {
      plan.steps[made].last_use = std::max(plan.steps[made].last_use, reader);
    } else if (donates || input.status() == mx::array::Status::unscheduled) {
      if (inputs_.emplace(input.id(), inputs.size()).second) {
        inputs.push_back(input);
      }
    } else if (constants_.emplace(input.id(), plan.constants.size()).second) {
      plan.constants.push_back(input);
    }
  }

  size_t slot(const mx::array& input) {
    if (auto made = step_of(input); made != NOWHERE) {
      return plan.first_step() + made;
    }
    if (auto found = inputs_.find(input.id()); found != inputs_.end()) {
      plan.uses[found->second] += 1;
      return plan.first_input() + found->second;
    }
    return constants_.at(input.id());
  }
};

// Gives what lies between steps its place: the first gap that is long enough.
void place(Plan& plan) {
  struct Taken {
    size_t begin, end, last_use;
  };
  std::vector<Taken> taken; // by begin
  for (size_t index = 0; index < plan.steps.size(); ++index) {
    auto& step = plan.steps[index];
    std::erase_if(taken, [&](auto& other) { return other.last_use < index; });
    if (step.output != NOWHERE) {
      continue;
    }
    auto bytes = (std::max<size_t>(step.bytes, 1) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    size_t begin = 0;
    auto before = taken.begin();
    for (; before != taken.end() && before->begin < begin + bytes; ++before) {
      begin = before->end;
    }
    taken.insert(before, {begin, begin + bytes, step.last_use});
    step.place = begin;
    plan.buffer_bytes = std::max(plan.buffer_bytes, begin + bytes);
  }
}

// The inputs of a Fused, between the two primitives. MLX gives every output of a primitive its own list of the inputs,
// which for many rows and layers is thousands of references, and with which no input would be anybody's own.
using Handover = std::shared_ptr<std::vector<mx::array>>;

// Takes the inputs over; its output is empty and only says that they are there.
class Gather : public mx::UnaryPrimitive {
 public:
  Gather(mx::Stream stream, Handover handover) : UnaryPrimitive(stream), handover_(std::move(handover)) {}

  void eval_cpu(const std::vector<mx::array>&, mx::array& output) override {
    // Not a copy: MLX lets go of an array's inputs only after its whole graph.
    *handover_ = std::move(output.inputs());
    output.inputs().clear();
    output.set_data(mx::allocator::malloc(output.nbytes()));
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw std::runtime_error("kernels for the CPU were given to another device");
  }

  const char* name() const override {
    return "GatherForHostKernels";
  }

 private:
  Handover handover_;
};

class Fused : public mx::Primitive {
 public:
  Fused(mx::Stream stream, std::shared_ptr<const Plan> plan, Handover handover)
      : Primitive(stream), plan_(std::move(plan)), handover_(std::move(handover)) {}

  void eval_cpu(const std::vector<mx::array>&, std::vector<mx::array>& outputs) override {
    auto inputs = std::move(*handover_);
    std::vector<bool> copies(plan_->steps.size(), false);
    for (size_t index = 0; index < plan_->steps.size(); ++index) {
      copies[index] = allocate(plan_->steps[index], inputs, outputs);
    }
    std::vector<mx::array> views;
    views.reserve(plan_->first_step() + outputs.size());
    for (auto* arrays : {&plan_->constants, &std::as_const(inputs), &std::as_const(outputs)}) {
      for (auto& array : *arrays) {
        views.push_back(mx::array::unsafe_weak_copy(array));
      }
    }
    // MLX keeps the memory of the inputs that it knows of until the kernels have run; these it does not.
    std::vector<std::shared_ptr<mx::array::Data>> held;
    for (auto& input : inputs) {
      held.push_back(input.data_shared_ptr());
    }
    auto buffer = mx::allocator::malloc(plan_->buffer_bytes);
    auto owned = std::shared_ptr<void>(buffer.raw_ptr(), [buffer](void*) { mx::allocator::free(buffer); });
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([plan = plan_, views = std::move(views), held = std::move(held), copies = std::move(copies),
                      owned = std::move(owned)]() mutable {
      run(*plan, views, copies, owned.get());
      // Before anyone hears of the outputs: who updates one in place must be its only holder.
      held.clear();
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("kernels for the CPU were given to another device");
  }

  const char* name() const override {
    return "FusedHostKernels";
  }

 private:
  std::shared_ptr<const Plan> plan_;
  Handover handover_;

  // Memory for what a step makes, if it is an output; whether the donor's contents are still to be copied there.
  bool allocate(const Step& step, const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) const {
    if (step.donor >= 0 && step.inputs[step.donor] < plan_->first_step()) {
      auto index = step.inputs[step.donor] - plan_->first_input();
      auto& donor = inputs[index];
      if (!donor.flags().row_contiguous) {
        throw std::runtime_error("an array that is updated in place must be contiguous");
      }
      if (step.output != NOWHERE && plan_->uses[index] == 1 && can_be_taken(donor)) {
        outputs[step.output].copy_shared_buffer(donor);
        return false;
      }
    }
    if (step.output != NOWHERE) {
      auto& output = outputs[step.output];
      output.set_data(mx::allocator::malloc(output.nbytes()));
    }
    return step.donor >= 0;
  }

  // `views`: the constants, the inputs, the outputs.
  static void run(const Plan& plan, std::vector<mx::array>& views, const std::vector<bool>& copies, void* buffer) {
    auto count = plan.first_step();
    std::vector<sanctum_view> slots;
    slots.reserve(count + plan.steps.size());
    for (size_t input = 0; input < count; ++input) {
      slots.push_back(view(views[input]));
    }
    std::vector<sanctum_view> seen;
    for (size_t index = 0; index < plan.steps.size(); ++index) {
      auto& step = plan.steps[index];
      auto* data = step.output == NOWHERE ? static_cast<char*>(buffer) + step.place
                                          : views[count + step.output].data<char>();
      slots.push_back({data, step.shape.data(), step.strides.data(), step.shape.size()});
      if (copies[index]) {
        std::memcpy(data, slots[step.inputs[step.donor]].data, step.bytes);
      }
      seen.clear();
      for (auto slot : step.inputs) {
        seen.push_back(slots[slot]);
      }
      call(*step.kernel, seen, slots.back());
    }
  }
};

std::vector<mx::array> fuse(std::vector<mx::array> roots) {
  Search search(roots);
  auto& steps = search.plan.steps;
  if (steps.size() < 2) {
    return roots;
  }
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
  for (auto& root : roots) {
    auto step = search.step_of(root);
    if (step != NOWHERE && steps[step].output == NOWHERE) {
      steps[step].output = shapes.size();
      shapes.push_back(root.shape());
      dtypes.push_back(root.dtype());
    }
  }
  place(search.plan);
  auto plan = std::make_shared<const Plan>(std::move(search.plan));
  auto stream = mx::to_stream(mx::Device::cpu);
  auto handover = std::make_shared<std::vector<mx::array>>();
  mx::array gathered(mx::Shape{1}, mx::uint8, std::make_shared<Gather>(stream, handover), std::move(search.inputs));
  auto primitive = std::make_shared<Fused>(stream, plan, handover);
  auto outputs = mx::array::make_arrays(std::move(shapes), dtypes, primitive, {gathered});
  for (auto& root : roots) {
    auto step = search.step_of(root);
    if (step != NOWHERE) {
      root = outputs[plan->steps[step].output];
    }
  }
  return roots;
}

} // namespace
} // namespace sanctum

// Replaces each of `arrays`, mlx-c's handles, by the same value made by one primitive; 0, or 1 when nothing was changed for
// want of memory.
extern "C" int sanctum_fuse(void* const* arrays, size_t count) {
  try {
    std::vector<mx::array> roots;
    for (size_t i = 0; i < count; ++i) {
      roots.push_back(*static_cast<mx::array*>(arrays[i]));
    }
    auto fused = sanctum::fuse(std::move(roots));
    for (size_t i = 0; i < count; ++i) {
      *static_cast<mx::array*>(arrays[i]) = fused[i];
    }
    return 0;
  } catch (...) {
    return 1;
  }
}
