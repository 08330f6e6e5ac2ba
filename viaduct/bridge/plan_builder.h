// PlanBuilder: collects target chunks with the pieces they are made of, and resolves the pieces against the places
// where the source stores its tensors.
#pragma once

#include <optional>
#include <unordered_map>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/transfer.h"
#include "viaduct/layout/piece.h"

namespace viaduct::bridge {

/// A plan as it grows, chunk by chunk.
class PlanBuilder {
 public:
  /// `source` outlives the builder.
  explicit PlanBuilder(const StoredTensors& source);

  /// Adds the next target chunk: the box of shape `size` at `offset` of a tensor that `pieces` (source ids index
  /// source.tensors, coordinates of the whole tensor) make. `add` is added to every value. Its place is filled in
  /// by finish().
  void add(const Shape& offset, const Shape& size, DType dtype, const layout::Pieces& pieces, uint32_t tensor,
           uint32_t chunk, float add = 0, uint32_t encoder = kNoEncoder);
  /// Adds the next target chunk as a copy of this place, whole; in another type where `dtype` names one.
  void add_copy(const SourceChunk& place, uint32_t tensor, uint32_t chunk, std::optional<DType> dtype = {});

  /// Each returns what the plan calls it by.
  uint32_t add_encoder(const Encoder& encoder);
  uint32_t add_scales(const Scales& scales);
  uint32_t add_forms(const std::vector<ScaledForm>& forms);  // of the first
  /// A source file of this size that is made before the plan is executed.
  uint32_t add_measured_file(uint64_t size);
  /// The source chunk that holds all of tensor `id` of source.tensors.
  int32_t chunk_of(int32_t id) const { return static_cast<int32_t>(first_chunk_[static_cast<size_t>(id)]); }

  /// The plan, with the places that `target` gives to the chunks.
  TransferPlan finish(formats::TargetLayout target);
  /// A plan without files, for hashing: every chunk is a file of its own.
  TransferPlan finish_virtual();

 private:
  /// Appends a transfer; regions equal to one before are stored once.
  void add_transfer(int32_t source, const Region& region);

  const StoredTensors& source_;
  std::unordered_multimap<uint64_t, uint32_t> regions_;  // hash -> index into plan_.regions
  std::vector<uint32_t> first_chunk_;                    // of each source tensor, in plan_.sources
  TransferPlan plan_;
};

/// Where in the source's files the first byte of `pieces` lies: (file, offset). For ordering targets as the source
/// is ordered.
std::pair<uint32_t, uint64_t> first_source_byte(const StoredTensors& source, const layout::Pieces& pieces);

}  // namespace viaduct::bridge
