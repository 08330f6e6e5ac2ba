// GptModel::before_use is called for every parameter before forward reads it: whoever fills parameters in only then
// gets the same logits.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/unit/nn/moe_fixture.h"
#include "viaduct/nn/gpt_model.h"
#include "viaduct/nn/initialize.h"

namespace viaduct::nn {
namespace {

class BeforeUseOf : public ::testing::TestWithParam<const char*> {};

TEST_P(BeforeUseOf, EveryParameter) {
  const ContextPtr context = make_context(testing::arch_of(GetParam(), "{}"), {},
                                          std::make_shared<parallel::Mesh>(), at::kFloat, at::kCPU);
  const auto model = std::make_shared<GptModel>(context);
  initialize_weights(ModelChunks{model}, *context, 11);
  const at::NoGradGuard no_grad;
  at::manual_seed(5);
  const at::Tensor tokens = at::randint(0, context->arch.embedding.vocab_size, {2, 12}, at::kLong);
  const auto logits = [&] {
    ForwardPass pass;
    return model->forward(tokens, {}, pass);
  };
  const at::Tensor expected = logits();
  std::map<const at::TensorImpl*, at::Tensor> values;
  for (const at::Tensor& parameter : model->parameters()) {
    values.emplace(parameter.unsafeGetTensorImpl(), parameter.clone());
    parameter.fill_(NAN);
  }
  EXPECT_FALSE(logits().isfinite().all().item<bool>());
  int modules = 0;
  model->before_use([&](const torch::nn::Module& module) {
    ++modules;
    for (const at::Tensor& parameter : module.parameters())
      if (const auto value = values.extract(parameter.unsafeGetTensorImpl())) parameter.copy_(value.mapped());
  });
  EXPECT_TRUE(at::equal(logits(), expected));
  EXPECT_TRUE(values.empty()) << values.size() << " parameters are in no module";
  EXPECT_EQ(modules, model->num_layers() + 3) << "embedding, layers, final norm, output layer";
}

INSTANTIATE_TEST_SUITE_P(Families, BeforeUseOf,
                         ::testing::Values("llama", "qwen3_moe", "deepseek_v3", "gemma3", "gpt_oss"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace viaduct::nn
