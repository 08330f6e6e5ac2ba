#include "viaduct/nn/kernels.h"

#include <utility>

#include "viaduct/core/error.h"

namespace viaduct::nn {

AttentionBackend attention_backend(std::string_view name) {
  static constexpr std::pair<std::string_view, AttentionBackend> kNames[] = {
      {"auto", AttentionBackend::kAuto},   {"flash", AttentionBackend::kFlash},
      {"fused", AttentionBackend::kFused}, {"unfused", AttentionBackend::kUnfused},
      {"local", AttentionBackend::kLocal},
  };
  for (const auto& [known, backend] : kNames)
    if (known == name) return backend;
  throw UserError(
      fmt::format("model.attention_backend is \"{}\"; there are auto, flash, fused, unfused and local", name));
}

}  // namespace viaduct::nn
