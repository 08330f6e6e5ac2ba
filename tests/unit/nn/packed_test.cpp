// Several sequences in a row give what each gives by itself.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/nn/moe_fixture.h"
#include "viaduct/nn/cross_entropy.h"
#include "viaduct/nn/gpt_model.h"
#include "viaduct/nn/initialize.h"

namespace viaduct::nn {
namespace {

// Two rows of 24 positions: with sequences longer than the windows of the models below, of one token, and empty
// ones.
const std::vector<std::vector<int64_t>> kRows = {{0, 11, 12, 12, 24}, {0, 3, 24, 24}};
constexpr int64_t kPositions = 24;

struct Outcome {
  std::vector<at::Tensor> logits;  // of each sequence, [s, vocabulary]
  std::vector<std::pair<std::string, at::Tensor>> gradients;
};

struct Model {
  explicit Model(const std::string& family, const std::string& backend) {
    config::ModelConfig config;
    config.init_method_std = 0.1;
    if (!backend.empty()) config.attention_backend = config::attention_backend_named(backend);
    context = make_context(testing::arch_of(family, "{}"), config, std::make_shared<parallel::Mesh>(), at::kFloat,
                           at::kCPU);
    model = std::make_shared<GptModel>(context);
    initialize_weights({model}, *context, 3);
    // Sinks begin at zero: give them a value that shows.
    const at::NoGradGuard no_grad;
    for (auto& item : model->named_parameters())
      if (item.key().ends_with("softmax_offset")) item.value().normal_();
  }

  at::Tensor loss_of(const at::Tensor& logits, const at::Tensor& tokens) const {
    // Of the token itself: all positions count, and no label is needed from behind the sequence.
    return vocab_parallel_cross_entropy(logits, tokens.t(), *context).sum();
  }

  Outcome taken(Outcome outcome) {
    for (auto& item : model->named_parameters()) {
      at::Tensor& gradient = item.value().mutable_grad();
      outcome.gradients.emplace_back(item.key(), gradient.defined() ? gradient : at::zeros_like(item.value()));
      gradient = at::Tensor();
    }
    return outcome;
  }

  Outcome one_by_one(const at::Tensor& tokens) {
    Outcome outcome;
    for (size_t row = 0; row < kRows.size(); ++row)
      for (size_t i = 0; i + 1 < kRows[row].size(); ++i) {
        const int64_t begin = kRows[row][i], length = kRows[row][i + 1] - begin;
        if (length == 0) continue;
        const at::Tensor own = tokens.narrow(0, static_cast<int64_t>(row), 1).narrow(1, begin, length);
        ForwardPass pass;
        const at::Tensor logits = model->forward(own, {}, pass);
        outcome.logits.push_back(logits.detach().select(1, 0));
        loss_of(logits, own).backward();
      }
    return taken(std::move(outcome));
  }

  Outcome packed(const at::Tensor& tokens, bool with_offsets) {
    ForwardPass pass;
    std::vector<at::Tensor> positions;
    for (const auto& row : kRows) {
      std::vector<at::Tensor> parts;
      for (size_t i = 0; i + 1 < row.size(); ++i) parts.push_back(at::arange(row[i + 1] - row[i], at::kLong));
      positions.push_back(at::cat(parts));
    }
    pass.positions = at::stack(positions, 1);
    if (with_offsets) pass.packed = std::make_shared<const PackedSequences>(PackedSequences{kRows});
    const at::Tensor logits = model->forward(tokens, {}, pass);
    Outcome outcome;
    for (size_t row = 0; row < kRows.size(); ++row)
      for (size_t i = 0; i + 1 < kRows[row].size(); ++i)
        if (const int64_t length = kRows[row][i + 1] - kRows[row][i]; length > 0)
          outcome.logits.push_back(
              logits.detach().select(1, static_cast<int64_t>(row)).narrow(0, kRows[row][i], length));
    loss_of(logits, tokens).backward();
    return taken(std::move(outcome));
  }

  ContextPtr context;
  std::shared_ptr<GptModel> model;
};

double farthest(const Outcome& a, const Outcome& b) {
  double most = 0;
  for (size_t i = 0; i < a.logits.size(); ++i) most = std::max(most, testing::relative(a.logits[i], b.logits[i]));
  return most;
}

void expect_equal(const std::string& family, const std::string& backend = "") {
  SCOPED_TRACE(family + " " + backend);
  Model model(family, backend);
  at::manual_seed(1);
  const at::Tensor tokens =
      at::randint(0, model.context->arch.embedding.vocab_size, {2, kPositions}, at::TensorOptions(at::kLong));
  const Outcome expected = model.one_by_one(tokens), found = model.packed(tokens, true);
  ASSERT_EQ(found.logits.size(), expected.logits.size());
  EXPECT_LE(farthest(found, expected), 1e-6);
  for (size_t i = 0; i < expected.gradients.size(); ++i) {
    const auto& [name, gradient] = expected.gradients[i];
    EXPECT_LE(testing::relative(found.gradients[i].second, gradient), 1e-5) << name;
  }
  EXPECT_GE(farthest(model.packed(tokens, false), expected), 1e-3) << "rows without offsets give something else";
}

TEST(Packed, EqualsSequencesOneByOne) {
  // Grouped heads; latent attention; experts; sinks and windows; windows with a rope of their own; learned scores.
  for (const char* family : {"llama", "deepseek_v3", "qwen3_moe", "gpt_oss", "gemma3", "gemma2", "mistral"})
    expect_equal(family);
}

TEST(Packed, EveryBackend) {
  for (const char* backend : {"fused", "unfused"}) expect_equal("llama", backend);
}

TEST(Packed, PaddedKeys) {
  at::manual_seed(2);
  AttentionCall call;
  call.query_sbnd = at::randn({6, 1, 2, 4});
  call.key_kbgd = at::randn({6, 1, 2, 4});
  call.value_kbgv = at::randn({6, 1, 2, 4});
  call.mask.key_valid = at::tensor({1, 1, 1, 0, 1, 1}).to(at::kBool).unsqueeze(0);
  call.mask.packed = std::make_shared<const PackedSequences>(PackedSequences{{{0, 2, 6}}});
  const auto kernels = torch_kernels(AttentionBackend::kUnfused);
  const at::Tensor found = kernels->attention(call);
  call.mask.packed = nullptr;
  for (auto* tensor : {&call.query_sbnd, &call.key_kbgd, &call.value_kbgv}) *tensor = tensor->narrow(0, 2, 4);
  call.mask.key_valid = call.mask.key_valid.narrow(1, 2, 4);
  EXPECT_TRUE(at::allclose(found.narrow(0, 2, 4), kernels->attention(call)));
}

TEST(Packed, OffsetsMustBeThoseOfTheRows) {
  AttentionCall call;
  call.query_sbnd = call.key_kbgd = call.value_kbgv = at::randn({6, 1, 2, 4});
  const auto kernels = torch_kernels(AttentionBackend::kAuto);
  for (const auto& offsets : std::vector<std::vector<std::vector<int64_t>>>{
           {{0, 5}}, {{1, 6}}, {{0, 4, 2, 6}}, {{}}, {{0, 6}, {0, 6}}, {}}) {
    call.mask.packed = std::make_shared<const PackedSequences>(PackedSequences{offsets});
    EXPECT_THROW(kernels->attention(call), InternalError);
  }
}

}  // namespace
}  // namespace viaduct::nn
