#include "viaduct/bridge/plan_builder.h"

#include <limits>

#include "viaduct/core/error.h"

namespace viaduct::bridge {

using layout::Box;
using layout::Piece;
using layout::Pieces;

PlanBuilder::PlanBuilder(const StoredTensors& source) : source_(source) {
  plan_.source_files = source.files;
  for (const PlainTensor& tensor : source.tensors) {
    first_chunk_.push_back(static_cast<uint32_t>(plan_.sources.size()));
    for (const PlainTensor::Chunk& chunk : tensor.chunks) plan_.sources.push_back(chunk.place);
  }
}

void PlanBuilder::add(const Shape& offset, const Shape& size, DType dtype, const Pieces& pieces, uint32_t tensor,
                      uint32_t chunk) {
  TargetChunk target;
  target.dtype = dtype;
  target.size = size;
  target.tensor = tensor;
  target.chunk = chunk;
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
      plan_.transfers.push_back({layout::kNoTensor, {}, shift(part->to, offset), part->axes});
      continue;
    }
    const auto id = static_cast<size_t>(part->source);
    const PlainTensor& from = source_.tensors[id];
    for (size_t c = 0; c < from.chunks.size(); ++c) {
      const PlainTensor::Chunk& stored = from.chunks[c];
      const std::optional<Piece> run = layout::restrict_source(*part, Box::dense(stored.offset, stored.place.size));
      if (!run) continue;
      plan_.transfers.push_back({static_cast<int32_t>(first_chunk_[id] + c), shift(run->from, stored.offset),
                                 shift(run->to, offset), run->axes});
    }
  }
  target.num_transfers = static_cast<uint32_t>(plan_.transfers.size()) - target.first_transfer;
  plan_.targets.push_back(target);
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
