// A reference model of tests/golden/fixtures in memory: Hugging Face's tensors, and the parameters that the
// reference programs made of them.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "viaduct/formats/hf_directory.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/formats/torch_dist.h"
#include "viaduct/models/registry.h"
#include "viaduct/models/state_keys.h"

namespace viaduct::bridge {

struct GoldenModel {
  struct Tensor {
    DType dtype{};
    Shape shape;
    std::vector<std::byte> bytes;
  };
  Path hf_folder;
  Path iteration;  // the reference checkpoint's
  models::ArchSpec arch;
  std::map<std::string, Tensor> hf;
  std::map<std::string, Tensor> stored;      // the reference checkpoint's, by key
  std::map<std::string, Tensor> parameters;  // the same by the parameters' names

  const models::Family& family() const { return models::family_named(arch.family); }
};

/// The family of that fixture; GOLDEN tests only.
inline GoldenModel read_golden_model(const std::string& name) {
  GoldenModel model;
  const Path folder = Path(VIADUCT_GOLDEN_DIR) / "families" / name;
  model.hf_folder = folder / "hf";
  model.iteration = formats::resolve_iteration(folder / "megatron");
  model.arch = models::read_arch(models::HfConfig::read((model.hf_folder / "config.json").string()));
  const auto hf = formats::open_hf_directory(model.hf_folder);
  for (const formats::StoredTensor& tensor : hf->tensors())
    model.hf[tensor.name] = {tensor.dtype, tensor.shape, formats::read_tensor(*hf, tensor)};
  const auto megatron = formats::open_torch_dist(model.iteration);
  for (const formats::StoredTensor& tensor : megatron->tensors())
    model.stored[tensor.name] = {tensor.dtype, tensor.shape, formats::read_tensor(*megatron, tensor)};
  const models::LayerKeys keys = models::layer_keys_for(model.arch);
  for (const models::Parameter& parameter : models::megatron_parameters(model.arch)) {
    const models::StateKey key = models::state_keys(parameter, model.arch, keys)[0];
    const GoldenModel::Tensor& stored = model.stored.at(key.key);
    // The prepended axes lie outermost, so the parameter is one run of the stored tensor.
    int64_t index = 0;
    for (int axis = 0; axis < key.prefix.rank(); ++axis) index = index * stored.shape[axis] + key.prefix[axis];
    const auto size = static_cast<int64_t>(num_bytes(stored.dtype, num_elements(parameter.shape)));
    const auto begin = stored.bytes.begin() + index * size;
    model.parameters[parameter.name] = {stored.dtype, parameter.shape, {begin, begin + size}};
  }
  return model;
}

}  // namespace viaduct::bridge
