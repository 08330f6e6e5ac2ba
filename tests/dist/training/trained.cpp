#include "tests/dist/training/trained.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/dist/dist_world.h"
#include "tests/unit/nn/moe_fixture.h"
#include "viaduct/bridge/rank_layout.h"
#include "viaduct/nn/gradients.h"
#include "viaduct/nn/initialize.h"
#include "viaduct/nn/live.h"
#include "viaduct/nn/shard_of.h"

namespace viaduct::test {

namespace {

class ListedBatches : public training::MicroBatches {
 public:
  explicit ListedBatches(Batches batches) : batches_(std::move(batches)) {}
  training::MicroBatch next() override { return batches_.at(next_++); }

 private:
  Batches batches_;
  size_t next_ = 0;
};

models::ArchSpec arch_of(const std::string& family) {
  // Without DeepSeek's prediction heads, which do not run and would want a place in layout strings.
  return nn::testing::arch_of(family, R"({"num_hidden_layers": 6, "num_nextn_predict_layers": 0})");
}

training::MicroBatch batch_of(const std::vector<std::vector<at::Tensor>>& rows, bool packed) {
  std::vector<at::Tensor> tokens, labels, positions;
  nn::PackedSequences offsets;
  for (const auto& row : rows) {
    std::vector<at::Tensor> own_tokens, own_labels, own_positions;
    std::vector<int64_t> begins{0};
    for (const at::Tensor& ids : row) {
      const int64_t length = ids.size(0) - 1;
      own_tokens.push_back(ids.narrow(0, 0, length));
      own_labels.push_back(ids.narrow(0, 1, length));
      own_positions.push_back(at::arange(length, at::TensorOptions(at::kLong)));
      begins.push_back(begins.back() + length);
    }
    tokens.push_back(at::cat(own_tokens));
    labels.push_back(at::cat(own_labels));
    positions.push_back(at::cat(own_positions));
    offsets.cu_seqlens.push_back(std::move(begins));
  }
  const c10::Device device = world().device();
  training::MicroBatch batch;
  batch.tokens = at::stack(tokens).to(device);
  batch.labels = at::stack(labels).to(device);
  batch.loss_mask = at::ones(batch.tokens.sizes(), at::TensorOptions(at::kFloat)).to(device);
  if (packed) {
    batch.position_ids = at::stack(positions).to(device);
    batch.packed = std::make_shared<const nn::PackedSequences>(std::move(offsets));
  }
  return batch;
}

}  // namespace

std::string name_of(const Layout& layout) {
  const topology::Parallelism& p = layout.sizes;
  const auto& stages = p.split.pipeline_model_parallel_layout;
  return fmt::format("tp{} pp{} vpp{} ep{} etp{} dp{}{}{}", p.tp, p.pp, p.vpp, p.ep, p.etp, p.dp,
                     layout.sequence_parallel ? " sp" : "", stages ? " " + topology::to_string(*stages) : "");
}

Trained train(const std::string& family, const Layout& layout, std::shared_ptr<const parallel::Mesh> mesh,
              Batches batches, const std::function<void(config::ModelConfig&)>& change) {
  config::ModelConfig config;
  config.sequence_parallel = layout.sequence_parallel;
  config.calculate_per_token_loss = true;
  config.init_method_std = 0.1;
  if (change) change(config);
  at::manual_seed(7);
  const nn::ContextPtr context = nn::make_context(arch_of(family), config, mesh, at::kFloat, world().device());
  Trained result;
  result.chunks = nn::make_model(context);
  const nn::ModelChunks modules(result.chunks.begin(), result.chunks.end());
  nn::initialize_weights(modules, *context, 13);
  const auto count = static_cast<int>(batches.size());
  ListedBatches list(std::move(batches));
  const training::ForwardBackwardResult done =
      training::forward_backward(result.chunks, training::gpt_forward_step, list, {count, false, 1.0, true});
  result.losses = done.losses;
  nn::finalize_gradients(modules, *context);  // means over data-parallel ranks
  for (const auto& chunk : result.chunks)
    for (const at::Tensor& parameter : chunk->parameters())
      if (parameter.grad().defined()) parameter.grad().mul_(mesh->dp_cp.size() / done.num_tokens);
  return result;
}

void expect_gradients(const Trained& found, const Layout& layout, const Trained& one, double bound,
                      const std::string& where) {
  const nn::ModelContext& context = found.chunks.front()->context();
  const int rank = nn::grid_rank(layout.sizes, context.mesh->place());
  std::map<std::string, at::Tensor> expected;
  double squares = 0, elements = 0;
  for (const auto& item : one.chunks.front()->named_parameters()) {
    expected[item.key()] = item.value().grad();
    squares += item.value().grad().square().sum().item<double>();
    elements += static_cast<double>(item.value().numel());
  }
  // A gradient smaller than the model's average is measured against that: it may be zero but for noise.
  const double average = std::sqrt(squares / elements);
  int compared = 0;
  for (const bridge::RankParameter& held : bridge::rank_parameters(context.arch, layout.sizes, rank)) {
    const auto parameters = found.chunks.at(static_cast<size_t>(held.chunk))->named_parameters();
    const at::Tensor* parameter = parameters.find(held.name);
    if (!parameter) continue;  // a buffer
    const at::Tensor reference = nn::shard_of(expected.at(held.tensor.name), held.tensor);
    ASSERT_TRUE(parameter->grad().defined()) << where << ": " << held.name;
    const double norm =
        std::max(reference.norm().item<double>(), average * std::sqrt(static_cast<double>(reference.numel())));
    EXPECT_LE((parameter->grad() - reference).norm().item<double>(), bound * norm)
        << where << " rank " << rank << ": " << held.name;
    ++compared;
  }
  EXPECT_GT(compared, 0) << where;
}

Batches packs(int64_t vocabulary, bool packed) {
  // Lengths of the sequences of each row; rows of a micro-batch are equally long.
  static const std::vector<std::vector<std::vector<int64_t>>> kLengths = {
      {{5, 1, 10}, {16}},
      {{8}, {3, 5}},
      {{12}, {6, 6}},
      {{2, 2, 4, 8}, {15, 1}},
  };
  at::Generator generator = at::detail::createCPUGenerator(23);
  Batches result;
  for (const auto& rows : kLengths) {
    std::vector<std::vector<at::Tensor>> ids;
    for (const auto& row : rows) {
      ids.emplace_back();
      for (const int64_t length : row)
        ids.back().push_back(at::randint(0, vocabulary, {length + 1}, generator, at::TensorOptions(at::kLong)));
    }
    if (packed) {
      result.push_back(batch_of(ids, true));
    } else {
      for (const auto& row : ids)
        for (const at::Tensor& sequence : row) result.push_back(batch_of({{sequence}}, false));
    }
  }
  return result;
}

Batches of_rank(const Batches& all, const parallel::Mesh& mesh) {
  Batches result;
  for (size_t i = static_cast<size_t>(mesh.dp.rank()); i < all.size(); i += static_cast<size_t>(mesh.dp.size()))
    result.push_back(all[i]);
  return result;
}

}  // namespace viaduct::test
