#include "viaduct/nn/model_context.h"

#include <fmt/ranges.h>

#include "viaduct/bridge/model_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/nn/gpt_model.h"

namespace viaduct::nn {

void check_model_layout(const models::ArchSpec& arch, const topology::Parallelism& parallel) {
  bridge::check_layout(arch, parallel);
  std::vector<std::string> problems;
  const auto add = [&](std::string problem) {
    if (std::find(problems.begin(), problems.end(), problem) == problems.end())
      problems.push_back(std::move(problem));
  };
  if (parallel.cp != 1)
    add(fmt::format("context_parallel_size {}: this program cannot cut sequences yet", parallel.cp));
  if (arch.vision) add("the model has a vision tower, which this program can convert but not run yet");
  for (const models::LayerSpec& layer : arch.layers) {
    if (!layer.has_attention()) continue;
    const models::AttentionSpec& attention = layer.attention;
    if (attention.num_heads % parallel.tp != 0)
      add(fmt::format("tensor_model_parallel_size {} does not divide the {} attention heads", parallel.tp,
                      attention.num_heads));
    const int64_t groups = attention.num_query_groups;
    if (!attention.mla && groups % parallel.tp != 0 && parallel.tp % groups != 0)
      add(fmt::format("tensor_model_parallel_size {} and the {} query groups: neither divides the other",
                      parallel.tp, groups));
  }
  VIADUCT_USER_CHECK(problems.empty(), "the {} model cannot run so:\n  {}", arch.family,
                     fmt::join(problems, "\n  "));
}

ContextPtr make_context(models::ArchSpec arch, config::ModelConfig config,
                        std::shared_ptr<const parallel::Mesh> mesh, c10::ScalarType dtype, c10::Device device) {
  check_model_layout(arch, mesh->sizes());
  VIADUCT_USER_CHECK(!config.fp32_residual_connection,
                     "model.fp32_residual_connection=true is not part of this program's model yet");
  arch.mtp.reset();  // its heads are not part of the model that runs
  auto kernels = torch_kernels(attention_backend(config::attention_backend_name(config.attention_backend)));
  return std::make_shared<const ModelContext>(
      ModelContext{std::move(arch), std::move(config), std::move(mesh), std::move(kernels), dtype, device});
}

}  // namespace viaduct::nn
