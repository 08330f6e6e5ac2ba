// The law of ranks, for every family under random sizes and layouts: over all ranks every element of every
// parameter is held as often as its replication says; when the layout changes no rank reads more than it keeps, and
// what it gets is its part of the whole model.
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "tests/unit/bridge/random_model.h"
#include "viaduct/bridge/rank_layout.h"
#include "viaduct/layout/copy.h"
#include "viaduct/models/parameters.h"

namespace viaduct::bridge {
namespace {

using layout::Piece;
using layout::RankTensors;
using layout::ShardedTensor;
using models::ArchSpec;
using topology::Parallelism;

constexpr int kElementSize = 2;
constexpr int kMostRanks = 64;

using Bytes = std::vector<std::byte>;
Bytes empty_bytes(const Shape& shape, std::byte value = {}) {
  return Bytes(static_cast<size_t>(num_elements(shape) * kElementSize), value);
}

bool ends_with_one_of(std::string name, std::initializer_list<std::string_view> endings) {
  while (!name.empty() && name.back() >= '0' && name.back() <= '9') name.pop_back();  // an expert's number
  return std::any_of(endings.begin(), endings.end(), [&](std::string_view end) { return name.ends_with(end); });
}

// How many ranks hold each element, from the sizes alone.
int replication(const std::string& name, const ArchSpec& arch, const Parallelism& p) {
  const int stage = p.tp * p.cp * p.dp;
  if (name.find(".experts.") != std::string::npos)
    return stage / (p.ep * (ends_with_one_of(name, {"linear_fc2.bias"}) ? 1 : p.etp));
  // Endings of names in Megatron's modules; towers that are transformers' own have others.
  const bool is_cut = ends_with_one_of(
      name, {"word_embeddings.weight", "output_layer.weight", "linear_qkv.weight", "linear_qkv.bias",
             "linear_proj.weight", "linear_fc1.weight", "linear_fc1.bias", "linear_fc2.weight",
             // latent attention, sinks, multi-token prediction, one linear layer for a whole part
             "linear_q_proj.weight", "linear_q_up_proj.weight", "linear_kv_up_proj.weight", "softmax_offset",
             "eh_proj.weight", ".self_attention.weight", ".mlp.weight",
             // Mamba and gated DeltaNet
             "mixer.in_proj.weight", "mixer.conv1d_weight", "mixer.conv1d_bias", "mixer.dt_bias", "mixer.A_log",
             "mixer.D", "mixer.norm.weight", "mixer.out_proj.weight", "self_attention.in_proj.weight",
             "self_attention.conv1d.weight", "self_attention.dt_bias", "self_attention.A_log",
             "self_attention.out_proj.weight",
             // projectors and patches
             "multi_modal_projector.proj.weight", "vision_model.embedder.weight"});
  const bool embedding = name == arch.language_module + "embedding.word_embeddings.weight";
  const bool on_two_stages = embedding && (arch.embedding.tied || arch.mtp) && p.pp > 1;
  return stage / (is_cut ? p.tp : 1) * (on_two_stages ? 2 : 1);
}

// Ranks that hold the same hold the same box, so the boxes are counted, and each once they make the whole.
void expect_held_as_often_as_replicated(const ArchSpec& arch, const Parallelism& parallel,
                                        const std::vector<RankTensors>& ranks) {
  ASSERT_EQ(ranks.size(), static_cast<size_t>(parallel.tp * parallel.cp * parallel.dp * parallel.pp));
  std::map<std::string, std::map<std::string, std::pair<int, Piece>>> held;
  for (const RankTensors& tensors : ranks)
    for (const ShardedTensor& tensor : tensors)
      for (const Piece& piece : tensor.pieces)
        if (!piece.is_fill()) {
          auto& [count, known] = held[tensor.name][to_string(piece.from)];
          ++count;
          known = piece;
        }
  const std::vector<models::Parameter> parameters = models::megatron_parameters(arch);
  EXPECT_EQ(held.size(), parameters.size());
  for (const models::Parameter& parameter : parameters) {
    layout::Pieces once;
    for (const auto& [box, found] : held[parameter.name]) {
      EXPECT_EQ(found.first, replication(parameter.name, arch, parallel)) << parameter.name << " " << box;
      once.push_back(found.second);
    }
    const layout::Coverage coverage = layout::check_sources(once, {parameter.shape});
    EXPECT_TRUE(coverage.exact()) << parameter.name << ": " << coverage.summary();
  }
}

// A layout's tensors in memory, cut from the whole model.
struct Shards {
  std::vector<RankTensors> ranks;
  std::vector<std::vector<Bytes>> bytes;

  Shards(const ArchSpec& arch, const Parallelism& parallel, const std::map<std::string, Bytes>& whole)
      : ranks(rank_tensors(arch, parallel)) {
    for (const RankTensors& tensors : ranks) {
      bytes.emplace_back();
      for (const ShardedTensor& tensor : tensors) {
        Bytes& part = bytes.back().emplace_back(empty_bytes(tensor.local_shape, std::byte{0xC3}));
        const layout::SourceBuffer from{tensor.global_shape, whole.at(tensor.name)};
        const layout::TargetBuffer to{tensor.local_shape, part};
        layout::execute_in_memory(tensor.pieces, {&from, 1}, {&to, 1}, kElementSize);
      }
    }
  }
};

int64_t elements_of_model(const ShardedTensor& tensor) {
  int64_t count = 0;
  for (const Piece& piece : tensor.pieces)
    if (!piece.is_fill()) count += num_elements(piece.from.size);
  return count;
}

void expect_resharding_makes(const Shards& target, const Shards& source) {
  const layout::Planner planner(source.ranks);
  for (size_t rank = 0; rank < target.ranks.size(); ++rank) {
    const RankTensors& tensors = target.ranks[rank];
    const layout::RankPlan plan = planner.plan(tensors, static_cast<int>(rank));
    int64_t owned = 0, local = 0, read = 0, written = 0;
    std::vector<Bytes> made;
    std::vector<layout::TargetBuffer> targets;
    for (const ShardedTensor& tensor : tensors) {
      owned += elements_of_model(tensor);
      local += num_elements(tensor.local_shape);
      made.push_back(empty_bytes(tensor.local_shape, std::byte{0x5A}));
    }
    for (size_t i = 0; i < tensors.size(); ++i) targets.push_back({tensors[i].local_shape, made[i]});
    std::vector<layout::SourceBuffer> sources;
    for (const layout::RankPlan::Source& from : plan.sources) {
      const auto holder = static_cast<size_t>(from.rank), tensor = static_cast<size_t>(from.tensor);
      sources.push_back({source.ranks[holder][tensor].local_shape, source.bytes[holder][tensor]});
    }
    for (const Piece& piece : plan.pieces) {
      ASSERT_FALSE(piece.is_drop());
      written += num_elements(piece.to.size);
      if (!piece.is_fill()) read += num_elements(piece.from.size);
    }
    // With every element right below, as many written as there are means each once.
    EXPECT_EQ(read, owned) << "rank " << rank;
    EXPECT_EQ(written, local) << "rank " << rank;
    layout::execute_in_memory(plan.pieces, sources, targets, kElementSize);
    for (size_t i = 0; i < tensors.size(); ++i)
      EXPECT_TRUE(made[i] == target.bytes[rank][i]) << "rank " << rank << ": " << tensors[i].name;
  }
}

std::string show(const Parallelism& p) {
  return fmt::format("tp {} pp {} vpp {} cp {} ep {} etp {} dp {}", p.tp, p.pp, p.vpp, p.cp, p.ep, p.etp, p.dp);
}

ArchSpec toy(const models::Family& family) {
  return models::read_arch(models::HfConfig(toy_config(family), "toy"));
}
ArchSpec toy(std::string_view family) { return toy(models::family_named(family)); }

class RankLaw : public testing::TestWithParam<size_t> {
 protected:
  const models::Family& family() const { return models::families()[GetParam()]; }
  RandomModel random_{family(), 20260301 + GetParam()};

  ArchSpec random_arch() {
    Json config = random_.config();
    config.set("tie_word_embeddings", random_.one_of({0, 1}) == 1);
    if (config.contains("attention_bias") && takes_either_bias())
      config.set("attention_bias", random_.one_of({0, 1}) == 1);
    return models::read_arch(models::HfConfig(config, "random"));
  }

  // Some models' layers have no place for it in Megatron, others cannot be without it.
  bool takes_either_bias() const {
    Json config = toy_config(family());
    try {
      for (const bool bias : {false, true}) {
        config.set("attention_bias", bias);
        models::read_arch(models::HfConfig(config, "bias"));
      }
      return true;
    } catch (const UserError&) {
      return false;
    }
  }

  std::map<std::string, Bytes> random_weights(const ArchSpec& arch) {
    std::map<std::string, Bytes> whole;
    for (const models::Parameter& parameter : models::megatron_parameters(arch)) {
      Bytes& bytes = whole[parameter.name] = empty_bytes(parameter.shape);
      for (size_t i = 0; i < bytes.size(); i += sizeof(uint64_t)) {
        const uint64_t bits = random_.bits();
        std::memcpy(bytes.data() + i, &bits, std::min(sizeof(bits), bytes.size() - i));
      }
    }
    return whole;
  }
};

TEST_P(RankLaw, HoldsUnderTwoHundredPairsOfLayouts) {
  std::map<std::string, int> seen;
  for (int i = 0; i < 200; ++i) {
    const ArchSpec arch = random_arch();
    const Parallelism one = random_.layout_of_ranks(arch, kMostRanks),
                      two = random_.layout_of_ranks(arch, kMostRanks);
    SCOPED_TRACE(show(one) + " -> " + show(two));
    const std::map<std::string, Bytes> whole = random_weights(arch);
    const Shards source(arch, one, whole), target(arch, two, whole);
    expect_held_as_often_as_replicated(arch, one, source.ranks);
    expect_held_as_often_as_replicated(arch, two, target.ranks);
    expect_resharding_makes(target, source);
    const int64_t vocabulary = arch.embedding.vocab_size;
    for (const auto& [what, is_so] :
         {std::pair("tp", one.tp > 1),
          {"pp", one.pp > 1},
          {"vpp", one.vpp > 1},
          {"cp", one.cp > 1},
          {"dp", one.dp > 1},
          {"ep", one.ep > 1},
          {"etp", one.etp > 1},
          {"padded", vocabulary % one.tp != 0},
          {"padded otherwise", vocabulary % one.tp != 0 && vocabulary % two.tp != 0 && one.tp != two.tp},
          {"tied", arch.embedding.tied},
          {"tied on two stages", arch.embedding.tied && one.pp > 1}})
      seen[what] += is_so;
    if (HasFailure()) return;
  }
  // The layouts were worth something.
  for (const char* what : {"tp", "pp", "cp", "dp", "padded", "padded otherwise"}) EXPECT_GE(seen[what], 10) << what;
  if (!toy(family()).hybrid) {  // which have no virtual pipeline
    EXPECT_GE(seen["vpp"], 10);
  }
  if (toy(family()).has_moe()) {
    EXPECT_GE(seen["ep"], 10);
    EXPECT_GE(seen["etp"], 10);
  }
  if (seen["tied"] >= 50) {  // there are models whose output layer is never Megatron's embedding
    EXPECT_GE(seen["tied on two stages"], 10);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, RankLaw, testing::Range<size_t>(0, models::families().size()),
                         [](const auto& info) { return std::string(models::families()[info.param].name); });

TEST(RankPlanOfAModel, IsThatOfItsTensors) {
  const ArchSpec arch = toy("qwen3_moe");
  const Parallelism source{.tp = 2, .pp = 2, .ep = 2}, target{.tp = 4, .ep = 4, .dp = 2};
  const std::vector<RankTensors> sources = rank_tensors(arch, source), targets = rank_tensors(arch, target);
  for (int rank = 0; rank < 8; ++rank) {
    const layout::RankPlan direct = layout::plan(sources, targets[static_cast<size_t>(rank)], rank);
    const layout::RankPlan ours = plan(arch, source, target, rank);
    EXPECT_EQ(ours.pieces, direct.pieces);
    EXPECT_EQ(ours.sources, direct.sources);
    EXPECT_FALSE(ours.pieces.empty());
  }
}

TEST(RankPlanOfAModel, RefusesWhatDoesNotFit) {
  const ArchSpec arch = toy("llama");
  EXPECT_THROW(rank_tensors(arch, {.tp = 3}), UserError);                       // heads and sizes
  EXPECT_THROW(rank_tensors(arch, {.pp = 5}), UserError);                       // four layers
  EXPECT_THROW(rank_tensors(arch, {.ep = 2, .dp = 2}), UserError);              // no experts
  EXPECT_THROW(rank_tensors(toy("qwen3_moe"), {.ep = 4, .dp = 2}), UserError);  // two ranks for four parts
  EXPECT_THROW(plan(arch, {}, {.tp = 2}, 2), UserError);
  EXPECT_THROW(plan(arch, {}, {.tp = 2}, -1), UserError);
}

}  // namespace
}  // namespace viaduct::bridge
