// ParameterChunk: a model chunk without a forward pass. It holds the parameters of a rank under their names, for
// what only moves weights, and for models whose layers are not built here.
#pragma once

#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "viaduct/nn/live_model.h"

namespace viaduct::nn {

/// A module that tensors are put into by their names.
class ParameterChunk : public torch::nn::Module {
 public:
  /// Registers `tensor` as "a.b.weight": of modules a and b, which are made when they are not there. Parameters are
  /// floating; a router's expert bias is a buffer.
  void put(const std::string& name, const at::Tensor& tensor);

 private:
  std::map<std::string, std::shared_ptr<ParameterChunk>> chunks_;
};

/// The chunks of this rank, with no certain values, of the types that an import of `source` stores (with `dtype` as
/// its cast).
ModelChunks make_parameter_chunks(const bridge::Checkpoint& source, const parallel::Mesh& mesh,
                                  std::optional<DType> dtype = std::nullopt,
                                  c10::Device device = c10::DeviceType::CPU);

}  // namespace viaduct::nn
