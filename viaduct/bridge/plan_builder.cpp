#include "viaduct/bridge/plan_builder.h"

#include <algorithm>
#include <limits>

#include "viaduct/core/error.h"

namespace viaduct::bridge {

using layout::Box;
using layout::Piece;
using layout::Pieces;

namespace {

uint64_t hash_of(const Region& region) {
  uint64_t hash = 0;
  const auto add = [&](const Shape& shape) {
    for (const int64_t value : shape)
      hash = (hash ^ static_cast<uint64_t>(value)) * 0x9e3779b97f4a7c15u + (hash >> 29);
  };
  for (const Box* box : {&region.from, &region.to}) {
    add(box->offset);
    add(box->size);
    add(box->stride);
  }
  return hash;
}

}  // namespace

PlanBuilder::PlanBuilder(const StoredTensors& source) : source_(source) {
  plan_.source_files = source.files;
  plan_.store = source.store;
  plan_.scales = source.scales;
  plan_.forms = source.forms;
  size_t chunks = 0;
  for (const PlainTensor& tensor : source.tensors) chunks += tensor.chunks.size();
  first_chunk_.reserve(source.tensors.size());
  plan_.sources.reserve(chunks);
  for (const PlainTensor& tensor : source.tensors) {
    first_chunk_.push_back(static_cast<uint32_t>(plan_.sources.size()));
    for (const PlainTensor::Chunk& chunk : tensor.chunks) plan_.sources.push_back(chunk.place);
  }
}

void PlanBuilder::add(const Shape& offset, const Shape& size, DType dtype, const Pieces& pieces, uint32_t tensor,
                      uint32_t chunk, float add, uint32_t encoder) {
  TargetChunk target;
  target.dtype = dtype;
  target.size = size;
  target.tensor = tensor;
  target.chunk = chunk;
  target.add = add;
  target.encoder = encoder;
  target.first_transfer = static_cast<uint32_t>(plan_.transfers.size());
  const Box box = Box::dense(offset, size);
  const auto shift = [](Box moved, const Shape& origin) {
    for (int axis = 0; axis < moved.rank(); ++axis) moved.offset[axis] -= origin[axis];
    return moved;
  };
  for (const Piece& piece : pieces) {
    if (piece.is_drop()) continue;
    const std::optional<Piece> part = layout::restrict_target(piece, box);
    if (!part) continue;
    if (part->is_fill()) {
      add_transfer(layout::kNoTensor, {{}, shift(part->to, offset), part->axes});
      continue;
    }
    const auto id = static_cast<size_t>(part->source);
    const PlainTensor& from = source_.tensors[id];
    for (size_t c = 0; c < from.chunks.size(); ++c) {
      const PlainTensor::Chunk& stored = from.chunks[c];
      const std::optional<Piece> run = layout::restrict_source(*part, Box::dense(stored.offset, stored.place.size));
      if (!run) continue;
      add_transfer(static_cast<int32_t>(first_chunk_[id] + c),
                   {shift(run->from, stored.offset), shift(run->to, offset), run->axes});
    }
  }
  target.num_transfers = static_cast<uint32_t>(plan_.transfers.size()) - target.first_transfer;
  plan_.targets.push_back(target);
}

void PlanBuilder::add_copy(const SourceChunk& place, uint32_t tensor, uint32_t chunk, std::optional<DType> dtype) {
  TargetChunk target;
  target.dtype = dtype.value_or(place.dtype);
  target.size = place.size;
  target.tensor = tensor;
  target.chunk = chunk;
  target.first_transfer = static_cast<uint32_t>(plan_.transfers.size());
  target.num_transfers = 1;
  const Box whole = Box::whole(place.size);
  add_transfer(static_cast<int32_t>(plan_.sources.size()),
               {whole, whole, layout::AxisMap::identity(place.size.rank())});
  plan_.sources.push_back(place);
  plan_.targets.push_back(target);
}

uint32_t PlanBuilder::add_encoder(const Encoder& encoder) {
  plan_.encoders.push_back(encoder);
  return static_cast<uint32_t>(plan_.encoders.size() - 1);
}

uint32_t PlanBuilder::add_scales(const Scales& scales) {
  plan_.scales.push_back(scales);
  return static_cast<uint32_t>(plan_.scales.size() - 1);
}

uint32_t PlanBuilder::add_forms(const std::vector<ScaledForm>& forms) {
  plan_.forms.insert(plan_.forms.end(), forms.begin(), forms.end());
  return static_cast<uint32_t>(plan_.forms.size() - forms.size());
}

uint32_t PlanBuilder::add_measured_file(uint64_t size) {
  plan_.source_files.emplace_back("measured scales");
  plan_.measured_file = static_cast<uint32_t>(plan_.source_files.size() - 1);
  plan_.measured_size = size;
  return *plan_.measured_file;
}

void PlanBuilder::add_transfer(int32_t source, const Region& region) {
  const auto [begin, end] = regions_.equal_range(hash_of(region));
  const auto known =
      std::find_if(begin, end, [&](const auto& each) { return plan_.regions[each.second] == region; });
  if (known != end) {
    plan_.transfers.push_back({source, known->second});
    return;
  }
  const auto id = static_cast<uint32_t>(plan_.regions.size());
  regions_.emplace(hash_of(region), id);
  plan_.regions.push_back(region);
  plan_.transfers.push_back({source, id});
}

TransferPlan PlanBuilder::finish(formats::TargetLayout target) {
  plan_.target = std::move(target);
  for (TargetChunk& chunk : plan_.targets) {
    const formats::StoredChunk& place = plan_.target.tensors.at(chunk.tensor).chunks.at(chunk.chunk);
    chunk.file = place.file;
    chunk.byte_offset = place.byte_offset;
  }
  return std::move(plan_);
}

TransferPlan PlanBuilder::finish_virtual() {
  for (size_t i = 0; i < plan_.targets.size(); ++i) {
    plan_.targets[i].file = static_cast<uint32_t>(i);
    plan_.targets[i].byte_offset = 0;
    plan_.target.files.push_back({std::to_string(i), plan_.targets[i].num_bytes()});
  }
  return std::move(plan_);
}

std::pair<uint32_t, uint64_t> first_source_byte(const StoredTensors& source, const Pieces& pieces) {
  std::pair<uint32_t, uint64_t> first{std::numeric_limits<uint32_t>::max(), 0};
  for (const Piece& piece : pieces) {
    if (piece.is_fill()) continue;
    for (const PlainTensor::Chunk& chunk : source.tensors[static_cast<size_t>(piece.source)].chunks)
      first = std::min(first, {chunk.place.file, chunk.place.byte_offset});
  }
  return first;
}

}  // namespace viaduct::bridge
