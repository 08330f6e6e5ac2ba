#include "viaduct/bridge/plan_parameters.h"

#include <algorithm>
#include <unordered_map>

#include "viaduct/bridge/model_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/models/registry.h"

namespace viaduct::bridge {

using layout::Box;
using layout::Pieces;
using models::Parameter;

float add_on_import(const Checkpoint& source, size_t parameter) {
  return source.world() == World::kHuggingFace ? source.graph().add_of_parameter(parameter) : 0;
}

DType target_dtype(const Checkpoint& source, const Parameter& parameter, DType stored, std::optional<DType> cast) {
  if (!is_floating(stored)) return stored;
  if (source.world() == World::kHuggingFace && parameter.stored_type == models::StoredType::kModel)
    stored = source.arch().dtype;
  if (source.world() == World::kHuggingFace && parameter.stored_type == models::StoredType::kFloat32)
    return DType::kF32;
  return cast && parameter.stored_type != models::StoredType::kFloat32 ? *cast : stored;
}

namespace {

// A chunk of the target, before it has a place.
struct Unit {
  std::pair<uint32_t, uint64_t> source;  // where its first byte lies in the source
  uint32_t parameter = 0;
  uint32_t box = 0;  // index into the parameter's chunk_boxes
};

// The source's pieces (source ids index its stored tensors), and zeros for the rows that pad the vocabulary. Made
// anew for each use: those of all parameters together would fill the memory.
Pieces planned_pieces(const Checkpoint& source, size_t parameter, const Shape& shape) {
  const models::Parameter& wanted = source.graph().parameters[parameter];
  Pieces pieces = source.parameter_pieces(parameter);
  if (shape != wanted.shape) {
    layout::Piece fill;
    fill.target = 0;
    Shape offset = Shape::filled(shape.rank(), 0), size = shape;
    offset[0] = wanted.shape[0];
    size[0] = shape[0] - wanted.shape[0];
    fill.to = Box::dense(offset, size);
    pieces.push_back(fill);
  }
  return pieces;
}

// Chunks in the order in which their bytes lie in the source, so that both sides are read and written in sequence.
std::vector<Unit> ordered_units(const Checkpoint& source, const MegatronTarget& target,
                                std::vector<PlannedParameter>& planned) {
  const WeightGraph& graph = source.graph();
  const topology::Parallelism& parallel = target.parallel;
  std::vector<Unit> units;
  for (size_t p = 0; p < graph.parameters.size(); ++p) {
    const Shape shape = shape_in_layout(graph.parameters[p], parallel);
    const Pieces pieces = planned_pieces(source, p, shape);
    const DType stored = source.dtype_of(pieces);
    planned.push_back({shape, stored, target_dtype(source, graph.parameters[p], stored, target.dtype)});
    const std::vector<Box> boxes = chunk_boxes(graph.parameters[p], shape, parallel);
    for (size_t b = 0; b < boxes.size(); ++b) {
      Pieces parts;
      for (const layout::Piece& piece : pieces)
        if (auto part = layout::restrict_target(piece, boxes[b])) parts.push_back(std::move(*part));
      units.push_back(
          {first_source_byte(source.stored(), parts), static_cast<uint32_t>(p), static_cast<uint32_t>(b)});
    }
  }
  std::stable_sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) { return a.source < b.source; });
  return units;
}

// One data file for each 4 GiB unless the user says otherwise; of several parts each gets as many.
int num_files(const MegatronTarget& target, const std::vector<PlannedParameter>& planned) {
  if (target.num_files > 0) return target.num_files;
  uint64_t bytes = 0;
  for (const PlannedParameter& each : planned)
    bytes += static_cast<uint64_t>(num_bytes(each.dtype, num_elements(each.shape)));
  const auto files = static_cast<int>(std::clamp<uint64_t>((bytes + (uint64_t{4} << 30) - 1) >> 32, 1, 256));
  return (files + target.parts - 1) / target.parts * target.parts;
}

// The key that a chunk of a parameter belongs to: each component that is stored for itself has its own chunks.
models::StateKey key_of(const Parameter& parameter, const models::ArchSpec& arch, models::LayerKeys keys,
                        const Box& box) {
  std::vector<models::StateKey> parts = state_keys(parameter, arch, keys);
  if (parts.size() == 1) return std::move(parts[0]);
  for (models::StateKey& part : parts)
    if (box.offset[0] >= part.begin && box.offset[0] + box.size[0] <= part.begin + part.rows)
      return std::move(part);
  throw InternalError(fmt::format("a chunk of {} lies in no one component of it", parameter.name));
}

}  // namespace

ParameterPlan plan_parameters(const Checkpoint& source, const MegatronTarget& target, models::LayerKeys keys,
                              Conversion& conversion) {
  const WeightGraph& graph = source.graph();
  std::vector<PlannedParameter> planned;
  const std::vector<Unit> units = ordered_units(source, target, planned);
  ParameterPlan result{
      formats::TorchDistWriter({.num_files = num_files(target, planned)}), PlanBuilder(source.stored()), {}};
  std::unordered_map<std::string, uint32_t> tensor_ids;  // the writer's tensors, in order of first use
  std::vector<uint32_t> num_chunks;
  for (const Unit& unit : units) {
    const Parameter& parameter = graph.parameters[unit.parameter];
    const auto& [shape, stored, dtype] = planned[unit.parameter];
    const Box box = chunk_boxes(parameter, shape, target.parallel)[unit.box];
    const models::StateKey key = key_of(parameter, graph.arch, keys, box);
    result.casts |= target.dtype && dtype != stored;
    formats::StoredChunk chunk;
    chunk.offset = key.prefix;
    chunk.size = Shape::filled(key.prefix.rank(), 1);
    for (int axis = 0; axis < shape.rank(); ++axis) {
      chunk.offset.push_back(box.offset[axis] - (axis == 0 ? key.begin : 0));
      chunk.size.push_back(box.size[axis]);
    }
    const auto [it, fresh] = tensor_ids.try_emplace(key.key, static_cast<uint32_t>(num_chunks.size()));
    if (fresh) num_chunks.push_back(0);
    conversion.made_of.push_back(static_cast<int32_t>(unit.parameter));
    result.writer.add({key.key, dtype, key.stored_shape(shape), {chunk}});
    result.builder.add(box.offset, box.size, dtype, planned_pieces(source, unit.parameter, shape), it->second,
                       num_chunks[it->second]++, add_on_import(source, unit.parameter));
  }
  result.parameters = std::move(planned);
  result.num_tensors = static_cast<uint32_t>(num_chunks.size());
  return result;
}

}  // namespace viaduct::bridge
