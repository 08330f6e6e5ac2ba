// ModelContext: what every module of a model shares. The description, the runtime settings, the ranks, the kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "viaduct/config/model_config.h"
#include "viaduct/models/arch_spec.h"
#include "viaduct/nn/kernels.h"
#include "viaduct/parallel/mesh.h"

namespace viaduct::nn {

/// Immutable, and shared by the modules of all of a rank's model chunks.
struct ModelContext {
  models::ArchSpec arch;
  /// Runtime settings by upstream's names: sequence_parallel, attention_backend, moe_token_dispatcher_type ... What
  /// the model is comes from `arch` alone.
  config::ModelConfig config;
  std::shared_ptr<const parallel::Mesh> mesh;
  std::shared_ptr<const Kernels> kernels;
  c10::ScalarType dtype = at::kFloat;  // of the parameters
  c10::Device device = at::kCPU;

  /// Are activations outside of the tensor-parallel linears cut along the sequence?
  bool sequence_parallel() const { return config.sequence_parallel && !mesh->tp.alone(); }
  /// For tensors that hold parameters and activations.
  at::TensorOptions options() const { return at::TensorOptions().dtype(dtype).device(device); }
};
/// As every module holds it.
using ContextPtr = std::shared_ptr<const ModelContext>;

/// A context for `arch` with the reference kernels that config.attention_backend allows. UserError for settings
/// that do not fit the model or the ranks (see check_runs in live.h) and for what this program cannot
/// run.
ContextPtr make_context(models::ArchSpec arch, config::ModelConfig config,
                        std::shared_ptr<const parallel::Mesh> mesh, c10::ScalarType dtype, c10::Device device);

}  // namespace viaduct::nn
