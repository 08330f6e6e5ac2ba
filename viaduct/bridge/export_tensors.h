// The tensors that an export writes, in the order of their files: numbers, or codes with scales.
#pragma once

#include <string>
#include <vector>

#include "viaduct/bridge/conversion.h"
#include "viaduct/bridge/measure_scales.h"
#include "viaduct/bridge/quantized_source.h"

namespace viaduct::bridge {

/// A tensor of the target.
struct ExportTensor {
  /// What its elements are.
  enum class Part { kNumbers, kCodes, kScales };
  std::string name;
  DType dtype{};  // as the file lists it
  Shape shape;    // as the file lists it
  Part part = Part::kNumbers;
  int32_t hf_tensor = -1;  // of the target's graph, whose numbers it has; -1: `kept` is copied
  int32_t kept = -1;       // the source's stored tensor
  DType numbers{};         // the type in which the source stores its numbers
  int32_t scaled = -1;     // of codes and scales: index into ExportTensors::scaled
  int32_t original = -1;   // the source's stored tensor whose elements are written where they are still true
  float import_add = 0;    // what import added to it
  uint32_t shard = 0;      // of the source record's
};

/// All tensors of the target, and what their forms need.
struct ExportTensors {
  std::vector<ExportTensor> tensors;
  std::vector<ScaledTarget> scaled;
  std::vector<ScaledForm> forms;
  std::shared_ptr<const WeightGraph> graph;  // of the target's names; none: the source's own
  std::optional<Json> quantization;          // the section of config.json, when it is none that the source had
  bool own_shards = false;                   // the tensors are those of the source's files
  bool dequantises = false;                  // weights that the source had as codes are written as numbers
  std::vector<std::string> notes;
};

/// The pieces (source ids index the source's stored tensors) that make a tensor's numbers. `graph`: of the target's
/// names; none: the source's own.
layout::Pieces pieces_of(const ExportTensor& tensor, const Checkpoint& source, const WeightGraph* graph);

/// UserError naming what is missing, or what the target's form cannot hold.
ExportTensors export_tensors(const Checkpoint& source, const HfTarget& target);

}  // namespace viaduct::bridge
