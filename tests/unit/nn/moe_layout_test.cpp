// MoE layers under parallel layouts, each rank a thread: they hold what bridge says, and compute what one process
// does.
#include <gtest/gtest.h>

#include <set>

#include "tests/unit/nn/moe_fixture.h"
#include "tests/unit/parallel/thread_ranks.h"
#include "viaduct/bridge/rank_layout.h"

namespace viaduct::nn {
namespace {

using parallel::Mesh;
using testing::arch_of;
using testing::context_of;
using testing::Fixture;
using testing::read_fixture;
using testing::relative;
using testing::state_of;
using testing::Tensors;
using topology::Parallelism;

struct Layout {
  const char* name;
  Parallelism sizes;
  bool sequence_parallel = false;
};
void PrintTo(const Layout& layout, std::ostream* out) { *out << layout.name; }

constexpr Layout kLayouts[] = {
    {"tp2", {.tp = 2}},
    {"tp2_sp", {.tp = 2}, true},
    {"tp4_ep4", {.tp = 4, .ep = 4}},
    {"ep2", {.ep = 2, .dp = 2}},
    {"ep4", {.ep = 4, .dp = 4}},
    {"etp2", {.etp = 2, .dp = 2}},
    {"tp2_ep2", {.tp = 2, .ep = 2}},
    {"tp2_ep2_sp", {.tp = 2, .ep = 2}, true},
    {"tp2_etp2_sp", {.tp = 2, .etp = 2}, true},
    {"tp2_etp2", {.tp = 2, .etp = 2}},
    {"ep2_etp2", {.ep = 2, .etp = 2, .dp = 4}},
    {"tp2_ep2_dp2", {.tp = 2, .ep = 2, .dp = 2}},
    {"tp2_ep2_dp2_sp", {.tp = 2, .ep = 2, .dp = 2}, true},
    {"tp2_ep2_etp2_sp", {.tp = 2, .ep = 2, .etp = 2, .dp = 2}, true},
    {"dp2", {.dp = 2}},
};

std::shared_ptr<const Mesh> shared(const Mesh& mesh) { return {std::shared_ptr<const Mesh>(), &mesh}; }

int64_t number_at_end(const std::string& name) {
  return std::stoll(name.substr(name.find_last_not_of("0123456789") + 1));
}

// Rows of gate and of up are cut one by one.
at::Tensor cut_fc1(const at::Tensor& whole, bool gated, const parallel::Group& group) {
  std::vector<at::Tensor> parts;
  for (const at::Tensor& half : whole.chunk(gated ? 2 : 1, 0))
    parts.push_back(half.chunk(group.size(), 0)[static_cast<size_t>(group.rank())]);
  return at::cat(parts, 0);
}

bool has(const std::string& name, const char* part) { return name.find(part) != std::string::npos; }
bool is_routed_expert(const std::string& name) { return name.starts_with("experts."); }
bool is_cut_over_tp(const std::string& name) { return name.starts_with("shared_experts.linear"); }

// What the rank has under its own name `name` of a whole layer's tensors.
at::Tensor part_of(const Tensors& whole, const std::string& name, const models::LayerSpec& spec, const Mesh& mesh) {
  const bool routed = is_routed_expert(name);
  if (!routed && !is_cut_over_tp(name)) return whole.at(name);
  std::string global = name;
  if (routed) {
    const int64_t local = spec.moe->num_experts / mesh.ep.size(), i = number_at_end(name);
    global = name.substr(0, name.find_last_not_of("0123456789") + 1) + std::to_string(mesh.ep.rank() * local + i);
  }
  const parallel::Group& group = routed ? mesh.etp : mesh.tp;
  const at::Tensor& tensor = whole.at(global);
  if (has(name, "linear_fc1")) return cut_fc1(tensor, spec.mlp.gated, group);
  if (has(name, "bias")) return tensor;
  return tensor.chunk(group.size(), 1)[static_cast<size_t>(group.rank())];
}

// Every family with experts, as bridge lays out its first layer that has some.
TEST(MoeLayout, HoldsWhatBridgeSays) {
  for (const char* family :
       {"qwen3_moe", "olmoe", "gpt_oss", "deepseek_v2", "deepseek_v3", "glm4_moe", "nemotron_h", "qwen3_next"}) {
    const models::ArchSpec arch = arch_of(family, "{}");
    size_t layer = 0;
    while (!arch.layers[layer].moe) ++layer;
    const std::string prefix = "decoder.layers." + std::to_string(layer) + ".mlp.";
    for (const Layout& layout : kLayouts) {
      // This toy's linear attention has two key heads.
      if (std::string(family) == "qwen3_next" && layout.sizes.tp > 2) continue;
      parallel::run_ranks(layout.sizes, [&](const Mesh& mesh) {
        const MoeLayer moe(arch.layers[layer], 0, context_of(arch, at::kFloat, {}, shared(mesh)));
        std::map<std::string, std::vector<int64_t>> held, expected;
        for (const auto& [name, tensor] : state_of(moe)) held[name] = tensor.sizes().vec();
        for (const bridge::RankParameter& parameter : bridge::rank_parameters(arch, layout.sizes, mesh.rank()))
          if (parameter.name.starts_with(prefix))
            expected[parameter.name.substr(prefix.size())] = torchx::sizes_of(parameter.tensor.local_shape).vec();
        EXPECT_EQ(held, expected) << family << " " << layout.name << " rank " << mesh.rank();
        for (const auto& item : moe.named_buffers()) EXPECT_EQ(item.key(), "router.expert_bias");
      });
    }
  }
}

struct Model {
  const char* fixture;
  const char* family;
};

// Inputs of every replica, outputs, and the gradients of the mean of their losses.
struct Reference {
  std::vector<at::Tensor> x, y, dy, dx;
  std::vector<double> losses;  // of the first replica
  Tensors state, gradients;
};

Reference one_process(const models::ArchSpec& arch, const Fixture& fixture, const config::ModelConfig& config,
                      const std::vector<int64_t>& batches, int64_t positions) {
  const MoeLayer layer(*arch.moe_layer(), 0, context_of(arch, at::kDouble, config));
  testing::fill(layer, fixture.under("parameter."));
  Reference result;
  result.state = state_of(layer);
  for (const int64_t batch : batches) {
    const at::Tensor x = at::randn({positions, batch, arch.hidden_size}, at::kDouble).requires_grad_();
    const at::Tensor dy = at::randn_like(x.detach());
    ForwardPass pass;
    pass.training = true;
    pass.auxiliary_loss_scale = 1.0 / static_cast<double>(batches.size());
    const at::Tensor y = layer.forward(x, pass);
    (y * dy).sum().div(static_cast<double>(batches.size())).backward();
    result.x.push_back(x.detach());
    result.y.push_back(y.detach());
    result.dy.push_back(dy);
    result.dx.push_back(x.grad());
    if (result.losses.empty())
      for (const AuxiliaryLoss& loss : pass.auxiliary_losses) result.losses.push_back(loss.value.item<double>());
  }
  for (const auto& item : layer.named_parameters()) result.gradients[item.key()] = item.value().grad();
  return result;
}

// What finalize_gradients does for these parameters.
at::Tensor finalized(const std::string& name, const at::Tensor& gradient, const Mesh& mesh,
                     bool sequence_parallel) {
  at::Tensor sum = gradient.clone();
  if (is_routed_expert(name)) {
    mesh.edp.all_reduce(sum);
  } else {
    if (sequence_parallel && !is_cut_over_tp(name)) mesh.tp.all_reduce(sum);
    mesh.dp_cp.all_reduce(sum);
  }
  return sum / mesh.dp_cp.size();
}

void expect_one_process(const Model& model, const Layout& layout, const config::ModelConfig& given,
                        const std::vector<int64_t>& batches, int64_t positions) {
  const Fixture fixture = read_fixture(model.fixture);
  const models::ArchSpec arch = arch_of(model.family, fixture.config);
  at::manual_seed(7);
  const Reference reference = one_process(arch, fixture, given, batches, positions);
  config::ModelConfig config = given;
  config.sequence_parallel = layout.sequence_parallel;
  parallel::run_ranks(layout.sizes, [&](const Mesh& mesh) {
    const std::string where =
        fmt::format("{} {} {} rank {}", model.fixture, layout.name, config.moe_token_dispatcher_type, mesh.rank());
    const ContextPtr context = context_of(arch, at::kDouble, config, shared(mesh));
    const MoeLayer layer(*arch.moe_layer(), 0, context);
    Tensors own;
    for (const auto& [name, tensor] : state_of(layer))
      own[name] = part_of(reference.state, name, *arch.moe_layer(), mesh);
    testing::fill(layer, own);

    const auto replica = static_cast<size_t>(mesh.dp.rank());
    const auto of_rank = [&](const at::Tensor& tensor) {
      return layout.sequence_parallel ? tensor.chunk(mesh.tp.size(), 0)[static_cast<size_t>(mesh.tp.rank())]
                                      : tensor;
    };
    const at::Tensor x = of_rank(reference.x[replica]).clone().requires_grad_();
    ForwardPass pass;
    pass.training = true;
    const at::Tensor y = layer.forward(x, pass);
    EXPECT_LE(relative(y, of_rank(reference.y[replica])), 1e-12) << where;
    if (replica == 0) {
      ASSERT_EQ(pass.auxiliary_losses.size(), reference.losses.size());
      for (size_t i = 0; i < reference.losses.size(); ++i)
        EXPECT_NEAR(pass.auxiliary_losses[i].value.item<double>(), reference.losses[i], 1e-12) << where;
    }
    (y * of_rank(reference.dy[replica])).sum().backward();
    EXPECT_LE(relative(x.grad() / mesh.dp_cp.size(), of_rank(reference.dx[replica])), 1e-12) << where;
    for (const auto& item : layer.named_parameters()) {
      const std::string& name = item.key();
      ASSERT_TRUE(item.value().grad().defined()) << where << " " << name;
      const at::Tensor gradient = finalized(name, item.value().grad(), mesh, layout.sequence_parallel);
      EXPECT_LE(relative(gradient, part_of(reference.gradients, name, *arch.moe_layer(), mesh)), 1e-12)
          << where << " " << name;
    }
  });
}

std::vector<int64_t> even_batches(const Layout& layout) {
  return std::vector<int64_t>(static_cast<size_t>(layout.sizes.dp), 1);
}

class MoeLayouts : public ::testing::TestWithParam<Layout> {};
INSTANTIATE_TEST_SUITE_P(Layouts, MoeLayouts, ::testing::ValuesIn(kLayouts),
                         [](const auto& info) { return std::string(info.param.name); });

constexpr Model kModels[] = {{"moe_gpt_oss", "gpt_oss"},
                             {"moe_deepseek_v3", "deepseek_v3"},
                             {"moe_nemotron_h_latent", "nemotron_h"},
                             {"moe_qwen3_next", "qwen3_next"}};

config::ModelConfig with_losses(const char* dispatcher) {
  config::ModelConfig config;
  config.moe_token_dispatcher_type = dispatcher;
  config.moe_router_load_balancing_type = config::Strings{"aux_loss", "seq_aux_loss"};
  config.moe_aux_loss_coeff = config::Numbers{config::Number(0.3), config::Number(0.2)};
  config.moe_z_loss_coeff = config::Number(0.1);
  return config;
}

TEST_P(MoeLayouts, AreOneProcess) {
  for (const Model& model : kModels)
    for (const char* dispatcher : {"alltoall", "allgather"})
      expect_one_process(model, GetParam(), with_losses(dispatcher), even_batches(GetParam()), 8);
}

// Five tokens do not divide among two or four ranks, one (a step of generation) leaves ranks without any.
TEST_P(MoeLayouts, TokensNeedNotDivide) {
  if (GetParam().sequence_parallel) return;
  for (const char* dispatcher : {"alltoall", "allgather"})
    for (const int64_t positions : {5, 1})
      expect_one_process(kModels[0], GetParam(), with_losses(dispatcher), even_batches(GetParam()), positions);
}

TEST_P(MoeLayouts, ReplicasNeedNotHaveTheSameNumberOfTokens) {
  std::vector<int64_t> batches = even_batches(GetParam());
  for (size_t i = 0; i < batches.size(); ++i) batches[i] = static_cast<int64_t>(1 + i % 2);
  for (const char* dispatcher : {"alltoall", "allgather"})
    expect_one_process(kModels[1], GetParam(), with_losses(dispatcher), batches, 4);
}

// Where every rank of tp sees all tokens, an expert is as full as in one process.
TEST_P(MoeLayouts, CapacityIsOneProcess) {
  if (GetParam().sequence_parallel) return;
  for (const bool padded : {false, true}) {
    config::ModelConfig config = with_losses("alltoall");
    config.moe_expert_capacity_factor = config::Number(0.7);
    config.moe_pad_expert_input_to_capacity = padded;
    expect_one_process(kModels[1], GetParam(), config, even_batches(GetParam()), 8);
  }
}

}  // namespace
}  // namespace viaduct::nn
