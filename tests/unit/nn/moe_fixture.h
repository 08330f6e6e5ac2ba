// The fixtures that make_moe_fixtures.py made, and MoE layers to hold against them.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "viaduct/formats/safetensors.h"
#include "viaduct/models/registry.h"
#include "viaduct/nn/moe.h"
#include "viaduct/torchx/stored_tensor.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::nn::testing {

using Tensors = std::map<std::string, at::Tensor>;

/// One file: its tensors, and the configuration in its metadata.
struct Fixture {
  Tensors tensors;
  std::string config;

  const at::Tensor& at(const std::string& name) const { return tensors.at(name); }
  /// Those whose names begin with `prefix`, without it.
  Tensors under(const std::string& prefix) const {
    Tensors result;
    for (const auto& [name, tensor] : tensors)
      if (name.starts_with(prefix)) result[name.substr(prefix.size())] = tensor;
    return result;
  }
};

inline Fixture read_fixture(const std::string& name) {
  const formats::SafetensorsFile file(Path(VIADUCT_SOURCE_DIR "/tests/unit/nn/fixtures") / (name + ".safetensors"));
  Fixture fixture;
  for (const auto& [key, value] : file.header().metadata)
    if (key == "config") fixture.config = value;
  fixture.tensors = torchx::stored_tensors(file);
  return fixture;
}

/// The family's toy with the fixture's keys.
inline models::ArchSpec arch_of(const std::string& family, const std::string& keys) {
  Json config = Json::parse(std::string(models::family_named(family).toy_config), "toy");
  const Json changed = Json::parse(keys, "fixture");
  for (const auto& [key, value] : changed.members())
    if (key != "layers_block_type") config.set(key, value);
  return models::family_named(family).read_config(models::HfConfig(config, "fixture"));
}

inline ContextPtr context_of(const models::ArchSpec& arch, c10::ScalarType dtype,
                             const config::ModelConfig& config = {},
                             std::shared_ptr<const parallel::Mesh> mesh = std::make_shared<parallel::Mesh>()) {
  auto context = std::make_shared<ModelContext>();
  context->arch = arch;
  context->config = config;
  context->mesh = std::move(mesh);
  context->kernels = torch_kernels(AttentionBackend::kAuto);
  context->dtype = dtype;
  return context;
}

/// All that the layer holds by name: parameters and buffers.
inline Tensors state_of(const torch::nn::Module& module) {
  Tensors result;
  for (const auto& item : module.named_parameters()) result[item.key()] = item.value();
  for (const auto& item : module.named_buffers()) result[item.key()] = item.value();
  return result;
}

/// Sets what the layer holds; every name must be in `values`.
inline void fill(const torch::nn::Module& module, const Tensors& values) {
  const at::NoGradGuard no_grad;
  for (auto& [name, tensor] : state_of(module)) {
    at::Tensor(tensor).copy_(values.at(name));
  }
}

inline double relative(const at::Tensor& found, const at::Tensor& expected) {
  const double norm = expected.to(at::kDouble).norm().item<double>();
  const double error = (found.to(at::kDouble) - expected.to(at::kDouble)).norm().item<double>();
  return norm == 0 ? error : error / norm;
}

}  // namespace viaduct::nn::testing
