// Model chunks that hold parameters alone, with bytes that no weights have.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>

#include "viaduct/nn/parameter_chunk.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::nn {

inline constexpr std::byte kUnset{0xAB};

inline ModelChunks plain_chunks(const bridge::Checkpoint& source, const parallel::Mesh& mesh,
                                std::optional<DType> dtype = std::nullopt) {
  ModelChunks chunks = make_parameter_chunks(source, mesh, dtype);
  for (const auto& chunk : chunks) {
    for (const at::Tensor& tensor : chunk->parameters())
      std::ranges::fill(torchx::bytes_of(tensor.detach()), kUnset);
    for (const at::Tensor& tensor : chunk->buffers()) std::ranges::fill(torchx::bytes_of(tensor), kUnset);
  }
  return chunks;
}

}  // namespace viaduct::nn
