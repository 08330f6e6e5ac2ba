#include "viaduct/nn/shard_gather.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "viaduct/bridge/plan_parameters.h"
#include "viaduct/core/error.h"
#include "viaduct/nn/agree.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::nn {

using layout::Box;
using layout::Piece;
using layout::Pieces;
using topology::Coordinates;
using topology::Parallelism;

namespace {

constexpr int64_t kAlignment = 16;                     // of a segment: any element type's
constexpr int64_t kMessageBytes = int64_t{256} << 20;  // that go in one collective

at::Tensor view_of(const at::Tensor& tensor, const Box& box) {
  at::Tensor view = tensor;
  for (int axis = 0; axis < box.rank(); ++axis)
    view = view.slice(axis, box.offset[axis], box.offset[axis] + (box.size[axis] - 1) * box.stride[axis] + 1,
                      box.stride[axis]);
  return view;
}

// The source box of a piece with the target's axes.
at::Tensor source_of(const Piece& piece, const at::Tensor& tensor) {
  at::Tensor view = view_of(tensor, piece.from);
  std::vector<int64_t> order;
  for (int axis = 0; axis < piece.to.rank(); ++axis)
    if (piece.axes[axis] >= 0) order.push_back(piece.axes[axis]);
  const size_t named = order.size();
  for (int axis = 0; axis < piece.from.rank(); ++axis)
    if (std::find(order.begin(), order.begin() + static_cast<int64_t>(named), axis) ==
        order.begin() + static_cast<int64_t>(named))
      order.push_back(axis);
  view = view.permute(order);
  while (view.dim() > static_cast<int64_t>(named)) view = view.select(-1, 0);  // axes of size 1
  for (int axis = 0; axis < piece.to.rank(); ++axis)
    if (piece.axes[axis] < 0) view = view.unsqueeze(axis);
  return view;
}

}  // namespace

ShardGather::ShardGather(const ModelChunks& chunks, const parallel::Mesh& mesh, const models::ArchSpec& arch,
                         std::string_view source)
    : mesh_(mesh), arch_(arch), device_(device_of(chunks)), parameters_(models::megatron_parameters(arch)) {
  agree(mesh.world, device_, [&] { live_ = match_modules(chunks, arch, mesh, source); });
  exchange_places();
  exchange_tensors();
  exchange_types();
}

void ShardGather::exchange_places() {
  const Parallelism& s = mesh_.sizes();
  const Coordinates& c = mesh_.place();
  const std::vector<int64_t> mine{s.tp, s.pp, s.vpp, s.cp, s.ep,  s.etp, s.dp,
                                  c.tp, c.cp, c.dp,  c.pp, c.etp, c.ep,  c.edp};
  const auto width = static_cast<int64_t>(mine.size());
  const at::Tensor all = mesh_.world.all_gather(at::tensor(mine, at::kLong).view({1, width}).to(device_), 0).cpu();
  for (int member = 0; member < mesh_.world.size(); ++member) {
    const int64_t* row = all.const_data_ptr<int64_t>() + member * width;
    VIADUCT_USER_CHECK(std::equal(row, row + 7, mine.begin()),
                       "rank {} has another parallel layout than rank {}: every rank must be given the same sizes",
                       mesh_.world.global_rank(member), mesh_.rank());
    const auto at = [&](int i) { return static_cast<int>(row[i]); };
    places_.push_back({at(7), at(8), at(9), at(10), at(11), at(12), at(13)});
  }
}

// A rank may hold less than the layout has for it: a model that runs without multi-token prediction.
void ShardGather::exchange_tensors() {
  const std::vector<bridge::RankParameter> mine =
      bridge::rank_parameters(arch_, mesh_.sizes(), grid_rank(mesh_.sizes(), mesh_.place()));
  at::Tensor most = at::full({1}, static_cast<int64_t>(mine.size()), at::kLong).to(device_);
  mesh_.world.all_reduce(most, parallel::Reduce::kMax);
  const int64_t width = most.item<int64_t>();
  at::Tensor present = at::zeros({1, width}, at::kByte);
  size_t next = 0;  // of live_, which is in the same order
  for (size_t i = 0; i < mine.size() && next < live_.size(); ++i) {
    const bridge::RankParameter& held = live_[next].parameter;
    if (mine[i].chunk != held.chunk || mine[i].name != held.name) continue;
    present.mutable_data_ptr<uint8_t>()[i] = 1;
    ++next;
  }
  VIADUCT_CHECK_EQ(next, live_.size(), "tensors of modules in the order of the model");
  const at::Tensor all = mesh_.world.all_gather(present.to(device_), 0).cpu();
  for (int member = 0; member < mesh_.world.size(); ++member) {
    const uint8_t* row = all.const_data_ptr<uint8_t>() + member * width;
    present_.emplace_back(row, row + width);
  }
  // The ranks that are left out hold replicas.
  for (int member = 0; member < mesh_.world.size(); ++member) {
    const Coordinates& place = places_[static_cast<size_t>(member)];
    if (place.edp != 0 && (place.dp != 0 || place.cp != 0)) continue;
    holders_.push_back(member);
    layout::RankTensors& tensors = tensors_.emplace_back();
    std::vector<int32_t>& ids = ids_.emplace_back();
    for (bridge::RankParameter& each : held_by(member)) {
      tensors.push_back(std::move(each.tensor));
      ids.push_back(each.parameter);
    }
  }
  planner_.emplace(tensors_);
}

std::vector<bridge::RankParameter> ShardGather::held_by(int member) const {
  const auto id = static_cast<size_t>(member);
  std::vector<bridge::RankParameter> all =
      bridge::rank_parameters(arch_, mesh_.sizes(), grid_rank(mesh_.sizes(), places_[id]));
  std::vector<bridge::RankParameter> held;
  for (size_t i = 0; i < all.size(); ++i)
    if (present_[id][i]) held.push_back(std::move(all[i]));
  return held;
}

void ShardGather::exchange_types() {
  const auto count = static_cast<int64_t>(parameters_.size());
  at::Tensor codes = at::full({2, count}, int64_t{-1000}, at::kLong);
  int64_t* const most = codes.mutable_data_ptr<int64_t>();
  for (const LiveTensor& each : live_) {
    const auto code = static_cast<int64_t>(torchx::dtype_of(each.tensor.scalar_type()));
    most[each.parameter.parameter] = code;
    most[count + each.parameter.parameter] = -code;
  }
  codes = codes.to(device_);
  mesh_.world.all_reduce(codes, parallel::Reduce::kMax);
  codes = codes.cpu();
  const int64_t* const found = codes.const_data_ptr<int64_t>();
  for (int64_t p = 0; p < count; ++p) {
    if (found[p] < 0) {
      held_.emplace_back();
      continue;
    }
    const auto one = static_cast<DType>(found[p]), other = static_cast<DType>(-found[count + p]);
    VIADUCT_USER_CHECK(one == other, "{} has the type {} on one rank and {} on another",
                       parameters_[static_cast<size_t>(p)].name, one, other);
    held_.push_back(one);
  }
}

std::vector<DType> ShardGather::held_or_imported(const bridge::Checkpoint& source) const {
  std::vector<DType> types;
  for (size_t p = 0; p < parameters_.size(); ++p)
    types.push_back(held_[p] ? *held_[p]
                             : bridge::target_dtype(source, parameters_[p],
                                                    source.dtype_of(source.parameter_pieces(p)), std::nullopt));
  return types;
}

bool ShardGather::holds(const bridge::WeightGraph& graph, size_t hf_tensor) const {
  const std::vector<int32_t> parameters = graph.parameters_of(hf_tensor);
  return std::ranges::all_of(parameters,
                             [&](int32_t parameter) { return held_[static_cast<size_t>(parameter)].has_value(); });
}

DType ShardGather::numbers_of(const bridge::WeightGraph& graph, size_t hf_tensor) const {
  std::optional<DType> numbers;
  for (const int32_t parameter : graph.parameters_of(hf_tensor)) {
    const DType held = held_[static_cast<size_t>(parameter)].value();
    numbers = numbers && *numbers != held ? DType::kF32 : held;
  }
  return numbers.value();
}

std::vector<std::vector<bridge::RankParameter>> ShardGather::all_ranks() const {
  std::vector<std::vector<bridge::RankParameter>> result;
  for (int member = 0; member < mesh_.world.size(); ++member) result.push_back(held_by(member));
  return result;
}

std::vector<std::pair<int, ShardGather::Message>> ShardGather::plan(std::span<const WantedTensor> wanted) const {
  std::map<int, Message> messages;
  for (size_t w = 0; w < wanted.size(); ++w) {
    // Shards -> whole parameters -> the tensor.
    layout::RankTensors whole;
    std::vector<int32_t> numbers;  // [tensor of whole]: the parameter
    Pieces second = wanted[w].pieces;
    for (Piece& piece : second) {
      if (piece.is_fill()) continue;
      const auto known = std::find(numbers.begin(), numbers.end(), piece.source);
      const auto number = static_cast<int32_t>(known - numbers.begin());
      if (known == numbers.end()) {
        const models::Parameter& parameter = parameters_[static_cast<size_t>(piece.source)];
        numbers.push_back(piece.source);
        whole.push_back(layout::shard_of(parameter.name, parameter.shape, layout::Split::replicated(), 1, 0));
      }
      piece.source = number;
    }
    const layout::RankPlan first = planner_->plan(whole, 0);
    for (Piece& piece : layout::compose(first.pieces, second)) {
      if (piece.is_drop()) continue;
      if (piece.is_fill()) {  // made where it is received
        messages[-1].segments.push_back({w, -1, -1, 0, std::move(piece)});
        continue;
      }
      const layout::RankPlan::Source& source = first.sources[static_cast<size_t>(piece.source)];
      const auto holder = static_cast<size_t>(source.rank);
      Message& message = messages[holders_[holder]];
      const int32_t parameter = ids_[holder][static_cast<size_t>(source.tensor)];
      const int64_t size = num_bytes(held_[static_cast<size_t>(parameter)].value(), num_elements(piece.to.size));
      message.segments.push_back({w, source.tensor, parameter, message.size, std::move(piece)});
      message.size += (size + kAlignment - 1) / kAlignment * kAlignment;
    }
  }
  return {std::make_move_iterator(messages.begin()), std::make_move_iterator(messages.end())};
}

void ShardGather::pack(const Message& message, at::Tensor& bytes) const {
  for (const Segment& segment : message.segments) {
    const at::Tensor from = source_of(segment.piece, live_[static_cast<size_t>(segment.tensor)].tensor);
    const auto size = from.numel() * from.element_size();
    bytes.narrow(0, segment.offset, size).view(from.scalar_type()).view(from.sizes()).copy_(from);
  }
}

void ShardGather::unpack(const Message& message, const at::Tensor& bytes, std::vector<at::Tensor>& result) const {
  for (const Segment& segment : message.segments) {
    const DType held = held_[static_cast<size_t>(segment.parameter)].value();
    const Shape& shape = segment.piece.to.size;
    const at::Tensor from = bytes.narrow(0, segment.offset, num_bytes(held, num_elements(shape)))
                                .view(torchx::scalar_type(held))
                                .view(torchx::sizes_of(shape));
    view_of(result[segment.wanted], segment.piece.to).copy_(from);
  }
}

// What this rank has it does not send to itself.
void ShardGather::put(const Message& message, std::vector<at::Tensor>& result) const {
  for (const Segment& segment : message.segments)
    view_of(result[segment.wanted], segment.piece.to)
        .copy_(source_of(segment.piece, live_[static_cast<size_t>(segment.tensor)].tensor));
}

std::vector<at::Tensor> ShardGather::gather(std::span<const WantedTensor> wanted, bool first_only) const {
  const int me = mesh_.world.rank();
  const bool receives = !first_only || me == 0;
  std::vector<at::Tensor> result(wanted.size());
  if (receives)
    for (size_t w = 0; w < wanted.size(); ++w)
      result[w] = at::empty(torchx::sizes_of(wanted[w].shape),
                            at::TensorOptions(torchx::scalar_type(wanted[w].dtype)).device(device_));
  for (const auto& [from, message] : plan(wanted)) {
    if (from < 0) {
      if (receives)
        for (const Segment& segment : message.segments) view_of(result[segment.wanted], segment.piece.to).zero_();
      continue;
    }
    const bool travels = !mesh_.world.alone() && !(first_only && from == 0);
    if (from == me && receives) put(message, result);
    if (!travels || (first_only && me != from && me != 0)) continue;
    at::Tensor bytes = at::empty({message.size}, at::TensorOptions(at::kByte).device(device_));
    if (from == me) pack(message, bytes);
    for (int64_t begin = 0; begin < message.size; begin += kMessageBytes) {
      at::Tensor part = bytes.narrow(0, begin, std::min(kMessageBytes, message.size - begin));
      if (!first_only) {
        mesh_.world.broadcast(part, from);
      } else if (me == from) {
        mesh_.world.send(part, 0);
      } else {
        mesh_.world.receive(part, from);
      }
    }
    if (receives && from != me) unpack(message, bytes, result);
  }
  return result;
}

}  // namespace viaduct::nn
