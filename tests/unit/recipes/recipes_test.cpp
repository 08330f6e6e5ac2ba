#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <ostream>

#include "tests/unit/config/config_fixture.h"
#include "viaduct/config/finalize.h"
#include "viaduct/core/error.h"
#include "viaduct/core/file.h"
#include "viaduct/models/arch_spec.h"
#include "viaduct/models/registry.h"
#include "viaduct/recipes/recipe.h"

namespace viaduct::recipes {

void PrintTo(const Recipe& recipe, std::ostream* out) { *out << recipe.name; }

namespace {

using config::ConfigContainer;
using config::Yaml;
using ::testing::HasSubstr;
using Leaves = std::map<std::string, Yaml>;

Leaves leaves_of(const Yaml& document) {
  Leaves leaves;
  config::testing::leaves(document, "", leaves);
  return leaves;
}

/// Upstream's file (make_recipe_fixtures.py), with this test's folder in place of CWD, read and as it would be
/// written.
Yaml upstreams(const Recipe& recipe) {
  const Path path = Path(VIADUCT_GOLDEN_DIR) / "recipes" / (std::string(recipe.name) + ".yaml");
  std::string text = read_text_file(path);
  for (size_t at; (at = text.find("CWD")) != std::string::npos;)
    text.replace(at, 3, std::filesystem::current_path().string());
  return ConfigContainer::from_dict(config::parse_yaml(text, path.string()), path.string()).to_dict();
}

/// 1000000 of a config.json is 1000000.0 of another.
bool same(const Yaml& a, const Yaml& b) {
  const bool numbers = a.is_number() && b.is_number();
  return numbers ? a.as_double() == b.as_double() : a == b;
}

class EveryRecipe : public ::testing::TestWithParam<Recipe> {};

TEST_P(EveryRecipe, IsUpstreams) {
  const Leaves ours = leaves_of(GetParam().make().to_dict());
  const Leaves theirs = leaves_of(upstreams(GetParam()));
  ASSERT_GT(theirs.size(), 400u);
  for (const auto& [path, value] : theirs) {
    const auto found = ours.find(path);
    ASSERT_NE(found, ours.end()) << path;
    EXPECT_TRUE(same(found->second, value))
        << path << ": " << config::emit_yaml(found->second) << " and upstream's " << config::emit_yaml(value);
  }
  for (const auto& [path, value] : ours) EXPECT_TRUE(theirs.contains(path)) << path;
}

TEST_P(EveryRecipe, IsFoundByItsNames) {
  const std::string name(GetParam().name);
  EXPECT_EQ(recipe(name).name, name);
  EXPECT_EQ(recipe(name + "_config").name, name);
}

INSTANTIATE_TEST_SUITE_P(Library, EveryRecipe, ::testing::ValuesIn(recipes()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Recipe, FinetuneIsPeft) { EXPECT_EQ(recipe("qwen3_600m_finetune_config").name, "qwen3_600m_peft"); }

TEST(Recipe, UnknownNameSaysTheNearest) {
  try {
    recipe("llama32_1b_pretrian_config");
    FAIL() << "found";
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("did you mean \"llama32_1b_pretrain\"?"));
    EXPECT_THAT(error.what(), HasSubstr("viaduct list-recipes"));
  }
}

// The sizes are those of the published models: their numbers of parameters are on the models' pages.
TEST(Recipe, ModelsHaveThePublishedSizes) {
  const std::map<std::string, int64_t> parameters = {
      {"llama32_1b_pretrain", 1'235'814'400}, {"llama32_3b_pretrain", 3'212'749'824},
      {"llama31_8b_pretrain", 8'030'261'248}, {"qwen3_600m_pretrain", 596'049'920},
      {"qwen3_1p7b_pretrain", 1'720'574'976}, {"qwen3_4b_pretrain", 4'022'468'096},
      {"qwen3_8b_pretrain", 8'190'735'360},   {"qwen3_30b_a3b_pretrain", 30'532'122'624},
  };
  for (const auto& [name, count] : parameters)
    EXPECT_EQ(models::count_parameters(models::read_arch(recipe(name).make().model)), count) << name;
}

TEST(Recipe, FinalizesOnTheRanksOfItsLayout) {
  for (const Recipe& one : recipes()) {
    ConfigContainer config = one.make();
    config.checkpoint.pretrained_checkpoint = "base";  // which an adapter must have
    const auto& model = config.model;
    const int64_t ranks =
        model.pipeline_model_parallel_size *
        std::max(model.tensor_model_parallel_size * model.context_parallel_size,
                 model.expert_model_parallel_size * model.expert_tensor_parallel_size.value_or(1));
    EXPECT_NO_THROW(config::finalize_config(config, {.world_size = ranks * 2,
                                                     .variable = [](const auto&) { return std::nullopt; },
                                                     .check_paths = false,
                                                     .only_what_is_built = false}))
        << one.name;
  }
}

}  // namespace
}  // namespace viaduct::recipes
