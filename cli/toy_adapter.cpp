#include "cli/toy_adapter.h"

#include <algorithm>

#include "viaduct/adapters/adapter_graph.h"
#include "viaduct/adapters/adapter_spec.h"
#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/formats/safetensors_writer.h"
#include "viaduct/models/registry.h"

namespace viaduct::cli {

namespace fs = std::filesystem;

namespace {

// Evenly spread between -0.05 and 0.05.
std::vector<std::byte> random_numbers(const std::string& name, int64_t count, uint64_t seed) {
  std::vector<std::byte> bytes(static_cast<size_t>(2 * count));
  uint64_t state = xxh3_64(name) ^ seed;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const float value = (static_cast<float>(state >> 40) / (1 << 24) - 0.5f) * 0.1f;
    const uint16_t bits = to_bfloat16_bits(value);
    bytes[static_cast<size_t>(2 * i)] = static_cast<std::byte>(bits);
    bytes[static_cast<size_t>(2 * i + 1)] = static_cast<std::byte>(bits >> 8);
  }
  return bytes;
}

}  // namespace

int64_t write_toy_adapter(const Json& config, const Path& folder, int64_t rank, uint64_t seed, bool overwrite) {
  VIADUCT_USER_CHECK(overwrite || !fs::exists(folder) || fs::is_empty(folder),
                     "{} holds something already; --overwrite replaces it", folder.string());
  const models::ArchSpec arch = models::read_arch(models::HfConfig(config, "config.json"));
  const bridge::WeightGraph base = bridge::build_weight_graph(adapters::named_forms(arch).front());
  std::vector<std::pair<formats::StoredTensor, std::vector<std::byte>>> tensors;
  std::vector<std::string> modules;
  int64_t layers = 0;
  for (size_t p = 0; p < base.parameters.size(); ++p) {
    if (!adapters::is_linear(base.parameters[p]) || base.parameters[p].expert >= 0) continue;
    for (const int32_t id : base.tensors_of(p)) {
      const layout::Expr::Input& weight = base.hf_tensors[static_cast<size_t>(id)];
      if (weight.shape.rank() != 2) continue;
      const std::string prefix = adapters::peft_prefix(weight.name, {});
      for (const auto& [half, shape] : {std::pair("lora_A.weight", Shape{rank, weight.shape[1]}),
                                        std::pair("lora_B.weight", Shape{weight.shape[0], rank})}) {
        formats::StoredTensor tensor;
        tensor.name = prefix + half;
        tensor.dtype = DType::kBF16;
        tensor.shape = shape;
        auto numbers = random_numbers(tensor.name, num_elements(shape), seed);
        tensors.emplace_back(std::move(tensor), std::move(numbers));
      }
      const std::string module = adapters::peft_module(weight.name);
      modules.push_back(module.substr(module.rfind('.') + 1));
      ++layers;
    }
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.first.name < b.first.name; });
  std::sort(modules.begin(), modules.end());
  modules.erase(std::unique(modules.begin(), modules.end()), modules.end());
  adapters::AdapterSpec spec;
  spec.rank = rank;
  spec.alpha = static_cast<double>(2 * rank);
  if (overwrite) fs::remove_all(folder);
  fs::create_directories(folder);
  write_file_atomically(folder / "adapter_model.safetensors", formats::safetensors_file(tensors));
  write_file_atomically(folder / "adapter_config.json", adapters::peft_config_json(spec, modules, {}).dump(2));
  return layers;
}

}  // namespace viaduct::cli
