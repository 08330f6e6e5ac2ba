// Planted rule faults: each must be caught, by the proof that a table is one to one, by the source's tensors, or by
// the checkpoint that the reference programs made of the same model.
#include <gtest/gtest.h>

#include <optional>
#include <set>

#include "tests/unit/bridge/golden_model.h"
#include "tests/unit/bridge/rule_faults.h"
#include "viaduct/bridge/weight_graph.h"
#include "viaduct/config/run_config.h"
#include "viaduct/core/error.h"
#include "viaduct/layout/copy.h"

namespace viaduct::bridge {
namespace {

enum class Catcher { kProof, kSource, kComparison };

std::string text_of(const std::map<Catcher, int>& counts) {
  const auto count = [&](Catcher by) { return counts.contains(by) ? counts.at(by) : 0; };
  return fmt::format("{} by the proof, {} by the source's tensors, {} by the comparison", count(Catcher::kProof),
                     count(Catcher::kSource), count(Catcher::kComparison));
}

struct Finding {
  Catcher by;
  std::string what;
};

// The tensors that the table speaks of are those of the source, as open_checkpoint has it.
std::optional<Finding> compare_with_source(const WeightGraph& graph, const GoldenModel& model) {
  for (const layout::Expr::Input& wanted : graph.hf_tensors) {
    const auto it = model.hf.find(wanted.name);
    if (it == model.hf.end()) return Finding{Catcher::kSource, "missing: " + wanted.name};
    if (it->second.shape != wanted.shape)
      return Finding{Catcher::kSource,
                     fmt::format("{} has {}, not {}", wanted.name, it->second.shape, wanted.shape)};
  }
  for (const auto& [name, tensor] : model.hf)
    if (!graph.hf_ids.contains(name) && !graph.family->weights.find_derived(name))
      return Finding{Catcher::kSource, "unknown: " + name};
  return std::nullopt;
}

// What the table makes of the source is, bit for bit, what the reference programs made.
std::optional<Finding> compare_with_reference(const WeightGraph& graph, const GoldenModel& model) {
  std::vector<layout::SourceBuffer> sources;
  for (const layout::Expr::Input& input : graph.hf_tensors)
    sources.push_back({input.shape, model.hf.at(input.name).bytes});
  for (size_t p = 0; p < graph.parameters.size(); ++p) {
    const models::Parameter& parameter = graph.parameters[p];
    const GoldenModel::Tensor& expected = model.parameters.at(parameter.name);
    // No byte is right by chance.
    std::vector<std::byte> bytes(expected.bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = ~expected.bytes[i];
    const layout::TargetBuffer target{parameter.shape, bytes};
    layout::execute_in_memory(graph.to_parameter(p), sources, {&target, 1}, element_size(expected.dtype));
    if (bytes == expected.bytes) continue;
    const auto at = std::mismatch(bytes.begin(), bytes.end(), expected.bytes.begin()).first - bytes.begin();
    return Finding{Catcher::kComparison, fmt::format("{} differs from byte {}", parameter.name, at)};
  }
  return std::nullopt;
}

std::optional<Finding> check(const GoldenModel& model, const models::Family& family) {
  std::optional<WeightGraph> graph;
  try {
    graph = build_weight_graph(model.arch, family);
  } catch (const InternalError& error) {
    return Finding{Catcher::kProof, error.what()};
  }
  if (auto finding = compare_with_source(*graph, model)) return finding;
  return compare_with_reference(*graph, model);
}

const GoldenModel& golden(const std::string& name) {
  static std::map<std::string, GoldenModel> known;
  const auto it = known.find(name);
  return it != known.end() ? it->second : known.emplace(name, read_golden_model(name)).first->second;
}

TEST(PlantedRuleFaults, TheTablesThemselvesPass) {
  std::set<std::string> fixtures;
  for (const RuleFault& fault : rule_faults()) fixtures.insert(fault.family);
  EXPECT_GE(fixtures.size(), 10u);
  for (const std::string& name : fixtures) {
    const GoldenModel& model = golden(name);
    EXPECT_GE(model.parameters.size(), 10u) << name;
    const std::optional<Finding> finding = check(model, model.family());
    EXPECT_FALSE(finding) << name << ": " << finding->what;
  }
}

TEST(PlantedRuleFaults, EachIsCaught) {
  std::map<Catcher, int> counts;
  std::string table;
  int missed = 0;
  std::set<std::string> names;
  for (const RuleFault& fault : rule_faults()) {
    EXPECT_TRUE(names.insert(fault.name).second) << fault.name << " is planted twice";
    const GoldenModel& model = golden(fault.family);
    models::Family family = model.family();
    fault.plant(family.weights);
    const std::optional<Finding> finding = check(model, family);
    table += fmt::format("  {} ({}): {}\n", fault.name, fault.family, finding ? finding->what : "NOT CAUGHT");
    if (finding) {
      ++counts[finding->by];
    } else {
      ++missed;
    }
  }
  EXPECT_EQ(missed, 0) << table;
  EXPECT_GE(names.size(), 20u) << table;
  // Each of the three is needed.
  EXPECT_EQ(counts.size(), 3u) << table << text_of(counts);
  RecordProperty("caught", text_of(counts));
}

// A norm's weight stored as gamma - 1 (Gemma) is the same bits on both sides, so that no table can get it wrong;
// what tells Megatron is the configuration, and there the fault shows.
TEST(PlantedRuleFaults, NormsCentredOtherwiseAreCaught) {
  for (const char* name : {"gemma", "gemma2", "llama"}) {
    const GoldenModel& model = golden(name);
    const config::ModelConfig theirs = config::read_run_config(model.iteration / "run_config.yaml").model;
    EXPECT_EQ(models::provider_for(model.arch).layernorm_zero_centered_gamma, theirs.layernorm_zero_centered_gamma);
    models::ArchSpec faulty = model.arch;
    faulty.norm.zero_centered = !faulty.norm.zero_centered;
    EXPECT_NE(models::provider_for(faulty).layernorm_zero_centered_gamma, theirs.layernorm_zero_centered_gamma);
  }
}

}  // namespace
}  // namespace viaduct::bridge
