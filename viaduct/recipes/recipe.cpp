#include "viaduct/recipes/recipe.h"

#include <fmt/format.h>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/recipes/common.h"

namespace viaduct::recipes {

const std::vector<Recipe>& recipes() {
  static const std::vector<Recipe> all = [] {
    std::vector<Recipe> list;
    for (const auto& part : {llama3_recipes(), qwen3_recipes(), qwen3_moe_recipes()})
      list.insert(list.end(), part.begin(), part.end());
    return list;
  }();
  return all;
}

const Recipe& recipe(std::string_view name) {
  std::string wanted(name);
  if (wanted.ends_with("_config")) wanted.resize(wanted.size() - std::string_view("_config").size());
  constexpr std::string_view kFinetune = "_finetune";
  if (wanted.ends_with(kFinetune)) wanted.replace(wanted.size() - kFinetune.size(), kFinetune.size(), "_peft");
  std::vector<std::string> names;
  for (const Recipe& one : recipes()) {
    if (one.name == wanted) return one;
    names.emplace_back(one.name);
  }
  const auto near = nearest(wanted, names);
  throw UserError(fmt::format("there is no recipe \"{}\"{}; `viaduct list-recipes` lists them", name,
                              near ? fmt::format(" (did you mean \"{}\"?)", *near) : ""));
}

}  // namespace viaduct::recipes
