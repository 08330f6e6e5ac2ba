// What the ranks hold, against what megatron-core's ranks do: its parallel groups, and the chunks that each rank of
// the reference programs wrote.
#include "viaduct/bridge/rank_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/unit/bridge/random_model.h"
#include "tests/unit/topology/fixture_lines.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/formats/torch_dist.h"
#include "viaduct/models/parameters.h"
#include "viaduct/models/state_keys.h"

namespace viaduct::bridge {
namespace {

using layout::Piece;
using layout::RankTensors;
using layout::ShardedTensor;
using models::ArchSpec;
using models::Parameter;
using topology::Parallelism;
using topology::testing::fields;
using topology::testing::fixture_lines;

bool is_expert(const std::string& name) { return name.find(".experts.") != std::string::npos; }

const ShardedTensor* find(const RankTensors& tensors, const std::string& name) {
  const auto it = std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; });
  return it == tensors.end() ? nullptr : &*it;
}

// One line of the fixture at a time: the groups of ranks along some axes, each in the order of the ranks' places.
class Groups {
 public:
  Groups(const ArchSpec& arch, const Parallelism& sizes, topology::RankOrder order)
      : arch_(arch), sizes_(sizes), ranks_(rank_tensors(arch, sizes, order)) {}

  /// Returns whether the line says something about what ranks hold.
  bool check(bool dense, const std::string& axes, const std::vector<std::vector<int>>& groups) const {
    void (Groups::*check)(const std::vector<int>&) const = nullptr;
    if (dense && axes == "tp") check = &Groups::cut_rows_in_order;
    if (dense && axes == "pp") check = &Groups::layers_in_order;
    if (dense && axes == "dp-cp") check = &Groups::dense_replicas;
    if (dense && axes == "tp-pp") check = &Groups::whole_dense_model;
    if (!dense && axes == "tp") check = &Groups::cut_experts_in_order;
    if (!dense && axes == "ep") check = &Groups::experts_in_order;
    if (!dense && axes == "dp") check = &Groups::expert_replicas;
    if (!dense && axes == "tp-ep-pp") check = &Groups::all_experts_once;
    if (!check) return false;
    for (const std::vector<int>& group : groups) (this->*check)(group);
    return true;
  }

 private:
  const RankTensors& tensors(int rank) const { return ranks_.at(static_cast<size_t>(rank)); }

  // Member i of the group begins at the i-th of equal parts along an axis.
  void in_order(const std::vector<int>& group, const std::string& ending, int axis) const {
    size_t found = 0;
    for (size_t i = 0; i < group.size(); ++i)
      for (const ShardedTensor& tensor : tensors(group[i])) {
        if (tensor.name.find(ending) == std::string::npos) continue;
        ++found;
        const int64_t part = tensor.global_shape[axis] / static_cast<int64_t>(group.size());
        EXPECT_EQ(tensor.pieces.at(0).from.offset[axis], static_cast<int64_t>(i) * part) << tensor.name;
        EXPECT_EQ(tensor.local_shape[axis], part) << tensor.name;
      }
    EXPECT_GT(found, 0u);
  }
  void cut_rows_in_order(const std::vector<int>& group) const { in_order(group, "linear_qkv.weight", 0); }
  void cut_experts_in_order(const std::vector<int>& group) const {
    in_order(group, "experts.linear_fc2.weight", 1);
  }

  void layers_in_order(const std::vector<int>& group) const {
    const int64_t count = arch_.num_layers() / static_cast<int64_t>(group.size());
    for (size_t i = 0; i < group.size(); ++i) {
      const RankTensors& held = tensors(group[i]);
      for (int64_t layer = 0; layer < arch_.num_layers(); ++layer) {
        const bool is_here = find(held, fmt::format("decoder.layers.{}.mlp.router.weight", layer));
        EXPECT_EQ(is_here, layer / count == static_cast<int64_t>(i)) << "stage " << i << ", layer " << layer;
      }
      EXPECT_EQ(find(held, "embedding.word_embeddings.weight") != nullptr, i == 0);
      EXPECT_EQ(find(held, "output_layer.weight") != nullptr, i + 1 == group.size());
      EXPECT_EQ(find(held, "decoder.final_layernorm.weight") != nullptr, i + 1 == group.size());
    }
  }

  void experts_in_order(const std::vector<int>& group) const {
    const int64_t count = arch_.layers[0].moe->num_experts / static_cast<int64_t>(group.size());
    for (size_t i = 0; i < group.size(); ++i)
      for (const ShardedTensor& tensor : tensors(group[i]))
        if (const size_t at = tensor.name.find("linear_fc1.weight"); at != std::string::npos) {
          const int64_t expert = std::stoi(tensor.name.substr(at + 17));
          EXPECT_EQ(expert / count, static_cast<int64_t>(i)) << tensor.name;
        }
  }

  void replicas(const std::vector<int>& group, bool expert) const {
    const auto of = [&](int rank) {
      RankTensors chosen = tensors(rank);
      std::erase_if(chosen, [&](const ShardedTensor& tensor) { return is_expert(tensor.name) != expert; });
      return chosen;
    };
    const RankTensors first = of(group[0]);
    EXPECT_FALSE(first.empty());
    for (int rank : group) {
      const RankTensors other = of(rank);
      ASSERT_EQ(other.size(), first.size());
      for (size_t i = 0; i < first.size(); ++i) {
        EXPECT_EQ(other[i].name, first[i].name);
        EXPECT_EQ(other[i].pieces, first[i].pieces) << first[i].name;
      }
    }
  }
  void dense_replicas(const std::vector<int>& group) const { replicas(group, false); }
  void expert_replicas(const std::vector<int>& group) const { replicas(group, true); }

  // The group's ranks together hold every such parameter once, or (those that tp does not cut) once for each tp
  // rank.
  void whole_model(const std::vector<int>& group, bool expert) const {
    for (const Parameter& parameter : models::megatron_parameters(arch_)) {
      if (is_expert(parameter.name) != expert) continue;
      layout::Pieces pieces;
      for (int rank : group)
        if (const ShardedTensor* tensor = find(tensors(rank), parameter.name))
          for (const Piece& piece : tensor->pieces)
            if (!piece.is_fill()) pieces.push_back(piece);
      if (!expert && parameter.split.is_replicated()) {
        EXPECT_EQ(pieces.size(), static_cast<size_t>(sizes_.tp)) << parameter.name;
        continue;
      }
      const layout::Coverage coverage = layout::check_sources(pieces, {parameter.shape});
      EXPECT_TRUE(coverage.exact()) << parameter.name << ": " << coverage.summary();
    }
  }
  void whole_dense_model(const std::vector<int>& group) const { whole_model(group, false); }
  void all_experts_once(const std::vector<int>& group) const { whole_model(group, true); }

  const ArchSpec& arch_;
  Parallelism sizes_;
  std::vector<RankTensors> ranks_;
};

// A model that every layout of up to four in each direction cuts.
ArchSpec divisible_model() {
  Json config = toy_config(models::family_named("qwen3_moe"));
  for (const auto& [key, value] : {std::pair("num_attention_heads", 12),
                                   {"num_key_value_heads", 12},
                                   {"head_dim", 2},
                                   {"hidden_size", 12},
                                   {"moe_intermediate_size", 12},
                                   {"num_experts", 12},
                                   {"num_hidden_layers", 12},
                                   {"vocab_size", 125}})
    config.set(key, value);
  return models::read_arch(models::HfConfig(config, "divisible"));
}

TEST(RankLayout, RanksOfAGroupHoldWhatMegatronCoresDo) {
  const ArchSpec arch = divisible_model();
  std::optional<Groups> layout;
  int configurations = 0, checked = 0;
  for (const std::string& line : fixture_lines("rank_groups.txt")) {
    const std::vector<std::string> words = fields(line, ' ');
    SCOPED_TRACE(line);
    if (words[0] == "config") {
      const auto number = [&](size_t i) { return std::stoi(words[i]); };
      layout.emplace(arch,
                     Parallelism{.tp = number(2),
                                 .pp = number(5),
                                 .cp = number(3),
                                 .ep = number(7),
                                 .etp = number(6),
                                 .dp = number(4)},
                     words[1] == "data_last" ? topology::RankOrder::kDataLast : topology::RankOrder::kPipelineLast);
      ++configurations;
      continue;
    }
    std::vector<std::vector<int>> groups;
    for (const std::string& group : fields(words[2], ';')) {
      groups.emplace_back();
      for (const std::string& rank : fields(group, ',')) groups.back().push_back(std::stoi(rank));
    }
    checked += layout.value().check(words[0] == "dense", words[1], groups);
    if (HasFailure()) return;
  }
  EXPECT_EQ(configurations, 40);
  EXPECT_EQ(checked, 40 * 8);
}

struct Run {
  const char* name;
  const char* model;
  Parallelism layout;
};
void PrintTo(const Run& run, std::ostream* out) { *out << run.name; }

class RankLayoutOfRuns : public testing::TestWithParam<Run> {
 protected:
  // The stored tensor of a parameter, whichever of its keys the checkpoint has.
  static const formats::StoredTensor* find_stored(const formats::TensorReader& reader, const std::string& key) {
    if (const formats::StoredTensor* tensor = reader.find(key)) return tensor;
    for (const std::string& other : models::alternative_keys(key))
      if (const formats::StoredTensor* tensor = reader.find(other)) return tensor;
    return nullptr;
  }
  // "__3_0.distcp" was written by rank 3.
  static int rank_of(const Path& file) { return std::stoi(file.filename().string().substr(2)); }
};

// Gate and up of a rank are stored as two chunks even where they lie side by side.
std::vector<layout::Box> cut_at_components(const Parameter& parameter, const layout::Box& box) {
  if (parameter.split.components.empty()) return {box};
  std::vector<layout::Box> boxes;
  const int axis = parameter.split.axis;
  int64_t begin = 0;
  for (int64_t size : parameter.split.components) {
    layout::Box part = layout::Box::whole(parameter.shape);
    part.offset[axis] = begin;
    part.size[axis] = size;
    if (const auto common = layout::intersect(box, part)) boxes.push_back(*common);
    begin += size;
  }
  return boxes;
}

TEST_P(RankLayoutOfRuns, EachRankHoldsTheChunksThatItWrote) {
  const Path runs = Path(VIADUCT_GOLDEN_DIR) / "runs";
  const ArchSpec arch =
      models::read_arch(models::HfConfig::read((runs / "_models" / GetParam().model / "hf/config.json").string()));
  const std::vector<RankTensors> ranks = rank_tensors(arch, GetParam().layout);
  const auto reader = formats::open_torch_dist(formats::resolve_iteration(runs / GetParam().name / "megatron"));
  std::set<int> writers;
  for (const Parameter& parameter : models::megatron_parameters(arch)) {
    std::map<std::string, std::set<int>> ours;
    for (size_t rank = 0; rank < ranks.size(); ++rank)
      if (const ShardedTensor* tensor = find(ranks[rank], parameter.name))
        for (const Piece& piece : tensor->pieces)
          for (const layout::Box& box : cut_at_components(parameter, piece.from))
            ours[to_string(box)].insert(static_cast<int>(rank));

    const models::StateKey key = models::state_keys(parameter, arch, models::layer_keys_for(arch))[0];
    const formats::StoredTensor* stored = find_stored(*reader, key.key);
    ASSERT_NE(stored, nullptr) << key.key;
    size_t chunks = 0;
    for (const formats::StoredChunk& chunk : stored->chunks) {
      layout::Box box = layout::Box::whole(parameter.shape);
      bool is_ours = true;
      for (int axis = 0; axis < chunk.size.rank(); ++axis) {
        if (const int own = axis - key.prefix.rank(); own >= 0) {
          box.offset[own] = chunk.offset[axis];
          box.size[own] = chunk.size[axis];
        } else {
          ASSERT_EQ(chunk.size[axis], 1) << key.key;
          is_ours &= chunk.offset[axis] == key.prefix[axis];
        }
      }
      if (!is_ours) continue;
      ++chunks;
      const int writer = rank_of(reader->files().at(chunk.file));
      writers.insert(writer);
      EXPECT_TRUE(ours[to_string(box)].contains(writer))
          << parameter.name << " " << to_string(box) << ": rank " << writer << " wrote it";
    }
    // And nobody holds another box.
    EXPECT_EQ(ours.size(), chunks) << parameter.name;
  }
  EXPECT_GE(writers.size(), 2u);
}

INSTANTIATE_TEST_SUITE_P(
    Fixtures, RankLayoutOfRuns,
    testing::Values(Run{"llama_tp2_pp2", "llama_tied", {.tp = 2, .pp = 2}},
                    Run{"llama_pp2_vpp2", "llama4", {.pp = 2, .vpp = 2}},
                    Run{"llama_tp2_dp2_fpsave", "llama4", {.tp = 2, .dp = 2}},
                    Run{"llama_tp2_dp2_nofpsave", "llama4", {.tp = 2, .dp = 2}},
                    Run{"qwen3_moe_tp2_pp2_ep2", "qwen3_moe", {.tp = 2, .pp = 2, .ep = 2}},
                    Run{"qwen3_moe_ep2_nofpsave", "qwen3_moe", {.ep = 2, .dp = 2}},
                    Run{"qwen3_moe_tp2_ep2_etp2", "qwen3_moe", {.tp = 2, .ep = 2, .etp = 2, .dp = 2}},
                    Run{"gena_core014_llama_tp2", "llama", {.tp = 2}},
                    Run{"mlm_torch_dist_llama_tp2", "llama", {.tp = 2}}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace viaduct::bridge
