#include "viaduct/nn/parameter_chunk.h"

#include <ATen/ATen.h>

#include "viaduct/bridge/rank_view.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::nn {

void ParameterChunk::put(const std::string& name, const at::Tensor& tensor) {
  const size_t dot = name.find('.');
  if (dot != std::string::npos) {
    std::shared_ptr<ParameterChunk>& chunk = chunks_[name.substr(0, dot)];
    if (!chunk) chunk = register_module(name.substr(0, dot), std::make_shared<ParameterChunk>());
    chunk->put(name.substr(dot + 1), tensor);
  } else if (name == "expert_bias") {
    register_buffer(name, tensor);
  } else {
    register_parameter(name, tensor, at::isFloatingType(tensor.scalar_type()));
  }
}

ModelChunks make_parameter_chunks(const bridge::Checkpoint& source, const parallel::Mesh& mesh,
                                  std::optional<DType> dtype, c10::Device device) {
  bridge::MegatronTarget target;
  target.parallel = mesh.sizes();
  target.dtype = dtype;
  ModelChunks chunks;
  for (const bridge::ModelChunk& chunk : bridge::rank_view(source, target, grid_rank(mesh.sizes(), mesh.place()))) {
    auto module = std::make_shared<ParameterChunk>();
    for (const bridge::ViewTensor& tensor : chunk.view.tensors)
      module->put(tensor.name, at::empty(torchx::sizes_of(tensor.shape),
                                         at::TensorOptions(torchx::scalar_type(tensor.dtype)).device(device)));
    chunks.push_back(std::move(module));
  }
  return chunks;
}

}  // namespace viaduct::nn
