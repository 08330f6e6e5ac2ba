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
  enum class Part { kNumbers, kCodes, kScales };
  std::string name;
  DType dtype{};  // as the file lists it
  Shape shape;    // as the file lists it
  Part part = Part::kNumbers;
  layout::Pieces pieces;   // of its numbers; source ids index the source's stored tensors
  int32_t hf_tensor = -1;  // of the target's graph; -1: none, kept beside the checkpoint
  int32_t scaled = -1;     // of codes and scales: index into ExportTensors::scaled
  int32_t original = -1;   // the source's stored tensor whose elements are written where they are still true
  float import_add = 0;    // what import added to it
  uint32_t shard = 0;      // of the source record's
};

struct ExportTensors {
  std::vector<ExportTensor> tensors;
  std::vector<ScaledTarget> scaled;
  std::vector<ScaledForm> forms;
  WeightGraph graph;                 // of the target's names; empty: the source's own
  std::optional<Json> quantization;  // the section of config.json, when it is none that the source had
  bool own_shards = false;           // the tensors are those of the source's files
  bool dequantises = false;          // weights that the source had as codes are written as numbers
  std::vector<std::string> notes;
};

/// UserError naming what is missing, or what the target's form cannot hold.
ExportTensors export_tensors(const Checkpoint& source, const HfTarget& target);

}  // namespace viaduct::bridge
