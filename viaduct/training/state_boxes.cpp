#include "viaduct/training/state_boxes.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "viaduct/peft/attach.h"
#include "viaduct/torchx/tensor.h"
#include "viaduct/training/rank_state.h"

namespace viaduct::training {

using layout::Box;

namespace {

// Sub-box [offset, offset + size) of a tensor of shape `shape` of which `flat` has the elements from `begin` on.
at::Tensor view_of(const at::Tensor& flat, int64_t begin, const Shape& shape, const Shape& offset,
                   const Shape& size) {
  const Shape strides = row_major_strides(shape);
  int64_t first = flat.storage_offset() - begin;
  for (int axis = 0; axis < shape.rank(); ++axis) first += offset[axis] * strides[axis];
  return flat.as_strided(torchx::sizes_of(size), torchx::sizes_of(strides), first);
}

void add_boxes(const Shape& shape, int axis, Shape& prefix, int64_t begin, int64_t end, std::vector<Box>& boxes) {
  const auto emit = [&](int64_t from, int64_t to) {
    Shape offset = Shape::filled(shape.rank(), 0), size = shape;
    for (int a = 0; a < axis; ++a) {
      offset[a] = prefix[a];
      size[a] = 1;
    }
    if (axis < shape.rank()) {
      offset[axis] = from;
      size[axis] = to - from;
    }
    boxes.push_back(Box::dense(offset, size));
  };
  if (begin == end) return;
  if (axis >= shape.rank() - 1) return emit(begin, end);
  int64_t inner = 1;
  for (int a = axis + 1; a < shape.rank(); ++a) inner *= shape[a];
  int64_t row = begin / inner;
  const int64_t last = end / inner;
  const auto descend = [&](int64_t at, int64_t from, int64_t to) {
    prefix[axis] = at;
    add_boxes(shape, axis + 1, prefix, from, to, boxes);
  };
  if (begin % inner != 0) {
    descend(row, begin % inner, row == last ? end % inner : inner);
    if (row++ == last) return;
  }
  if (row < last) emit(row, last);
  if (end % inner != 0) descend(last, 0, end % inner);
}

// Deals out what several replicas hold: every one of them comes to the same answer by itself.
class Dealer {
 public:
  explicit Dealer(ReplicaWriters writers) : writers_(writers) {}

  bool is_mine(const parallel::Group& replicas, int64_t bytes) {
    if (writers_ == ReplicaWriters::kFirst) return replicas.rank() == 0;
    std::vector<int64_t>& loads = loads_[&replicas];
    loads.resize(static_cast<size_t>(replicas.size()), 0);
    const auto least = std::ranges::min_element(loads);
    *least += bytes;
    return least - loads.begin() == replicas.rank();
  }

 private:
  ReplicaWriters writers_;
  std::map<const parallel::Group*, std::vector<int64_t>> loads_;
};

StateBox state_box(const StoredPart& part, const std::string& key_prefix, const Box& local, at::Tensor values,
                   bool writes) {
  Box stored = part.stored(local);
  DType dtype = torchx::dtype_of(values.scalar_type());
  // Whoever goes on, with moments in whatever type, finds what megatron-core's optimizers write.
  if (key_prefix.starts_with("optimizer.state.") && element_size(dtype) < element_size(DType::kF32))
    dtype = DType::kF32;
  return {key_prefix + part.key, part.shape, std::move(stored.offset), std::move(stored.size), dtype,
          std::move(values),     writes};
}

const parallel::Group& replicas_of(const parallel::Mesh& mesh, const models::Parameter& parameter) {
  return parameter.expert >= 0 ? mesh.edp : mesh.dp_cp;
}

}  // namespace

std::vector<Box> boxes_of_range(const Shape& shape, int64_t begin, int64_t end) {
  std::vector<Box> boxes;
  Shape prefix = Shape::filled(shape.rank(), 0);
  add_boxes(shape, 0, prefix, begin, end, boxes);
  return boxes;
}

std::vector<StateBox> model_boxes(const nn::ModelChunks& chunks, const nn::ModelContext& context,
                                  models::LayerKeys keys, ReplicaWriters writers) {
  const parallel::Mesh& mesh = *context.mesh;
  const RankState rank(context.arch, keys, mesh.sizes(), mesh.place());
  Dealer dealer(writers);
  std::vector<StateBox> boxes;
  const auto add = [&](const models::Parameter& parameter, const at::Tensor& tensor) {
    const bool mine = dealer.is_mine(replicas_of(mesh, parameter), static_cast<int64_t>(tensor.nbytes()));
    for (const StoredPart& part : rank.parts(parameter)) {
      at::Tensor values = tensor;
      for (int axis = 0; axis < part.local.rank(); ++axis)
        values = values.narrow(axis, part.local.offset[axis], part.local.size[axis]);
      boxes.push_back(state_box(part, "", part.local, values, mine && rank.counts(parameter)));
    }
  };
  const std::vector<peft::AdapterTensor> adapters = peft::adapter_tensors(chunks, context);
  for (const peft::AdapterTensor& adapter : adapters) add(adapter.parameter, adapter.tensor);
  if (!adapters.empty()) return boxes;
  for (const nn::LiveTensor& live : nn::match_modules(chunks, context.arch, mesh, "the model"))
    add(rank.parameter(live.parameter), live.tensor);
  return boxes;
}

std::vector<StateBox> optimizer_boxes(const nn::ModelChunks& chunks, const nn::ModelContext& context,
                                      const optim::Optimizer& optimizer,
                                      const std::optional<std::string>& main_prefix, models::LayerKeys keys,
                                      ReplicaWriters writers) {
  const parallel::Mesh& mesh = *context.mesh;
  RankState rank(context.arch, keys, mesh.sizes(), mesh.place());
  for (peft::AdapterTensor& adapter : peft::adapter_tensors(chunks, context))
    rank.add(adapter.chunk, adapter.name, std::move(adapter.parameter));
  Dealer dealer(writers);
  std::vector<StateBox> boxes;
  for (const optim::OptimizerSlice& slice : optimizer.slices()) {
    std::vector<std::pair<std::string, at::Tensor>> tensors;  // by the beginning of their key
    if (main_prefix) tensors.emplace_back(*main_prefix, slice.main);
    for (size_t s = 0; s < slice.state.size(); ++s)
      tensors.emplace_back("optimizer.state." + optimizer.rule().state_names()[s] + ".", slice.state[s]);
    const Shape shape = torchx::shape_of(slice.parameter->tensor);
    const std::vector<Box> range = boxes_of_range(shape, slice.begin, slice.begin + slice.size);
    for (const models::Parameter& parameter : rank.parameters(slice.parameter->chunk, slice.parameter->name)) {
      // A part of a sharded optimizer is held by one rank alone.
      const bool mine = optimizer.sharded() || dealer.is_mine(replicas_of(mesh, parameter), slice.size);
      for (const StoredPart& part : rank.parts(parameter))
        for (const Box& piece : range)
          if (const auto local = layout::intersect(piece, part.local))
            for (const auto& [prefix, flat] : tensors)
              boxes.push_back(state_box(part, prefix, *local,
                                        view_of(flat, slice.begin, shape, local->offset, local->size),
                                        mine && rank.counts(parameter)));
    }
  }
  return boxes;
}

}  // namespace viaduct::training
