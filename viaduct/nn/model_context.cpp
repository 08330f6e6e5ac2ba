#include "viaduct/nn/model_context.h"

#include "viaduct/core/error.h"
#include "viaduct/nn/live.h"

namespace viaduct::nn {

ContextPtr make_context(models::ArchSpec arch, config::ModelConfig config,
                        std::shared_ptr<const parallel::Mesh> mesh, c10::ScalarType dtype, c10::Device device) {
  check_runs(arch, mesh->sizes());
  VIADUCT_USER_CHECK(mesh->sizes().cp == 1,
                     "context_parallel_size is {}: this program's model cannot cut sequences among ranks yet",
                     mesh->sizes().cp);
  VIADUCT_USER_CHECK(
      !arch.vision, "the {} model has a vision tower, which this program can convert but not run yet", arch.family);
  VIADUCT_USER_CHECK(!config.fp32_residual_connection,
                     "model.fp32_residual_connection=true is not part of this program's model yet");
  VIADUCT_USER_CHECK(!config.moe_router_force_biased,
                     "model.moe_router_force_biased is not part of this program's model yet");
  arch.mtp.reset();  // its heads are not part of the model that runs
  auto kernels = torch_kernels(attention_backend(config::attention_backend_name(config.attention_backend)));
  return std::make_shared<const ModelContext>(
      ModelContext{std::move(arch), std::move(config), std::move(mesh), std::move(kernels), dtype, device});
}

}  // namespace viaduct::nn
