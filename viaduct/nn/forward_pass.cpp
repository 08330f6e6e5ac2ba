#include "viaduct/nn/forward_pass.h"

#include "viaduct/core/error.h"
#include "viaduct/torchx/recompute.h"

namespace viaduct::nn {

bool ForwardPass::has_gradients() const { return torchx::has_gradients(); }

at::Tensor ForwardPass::once(const std::function<at::Tensor()>& make) {
  if (!replay) return make();
  if (!replay->again) return replay->kept.emplace_back(make());
  VIADUCT_CHECK(replay->next < replay->kept.size(), "more is computed the second time than the first");
  return replay->kept[replay->next++];
}

}  // namespace viaduct::nn
