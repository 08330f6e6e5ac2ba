// viaduct list-recipes: the configurations that `viaduct pretrain --recipe` begins with.
#include <fmt/format.h>

#include <algorithm>

#include "cli/command.h"
#include "cli/options.h"
#include "viaduct/recipes/recipe.h"

namespace viaduct::cli {

namespace {

struct ListRecipesOptions {
  bool json = false;
};

Json recipe_json(const recipes::Recipe& recipe) {
  const config::ConfigContainer config = recipe.make();
  return Json::object({{"recipe", Json(recipe.name)},
                       {"model", Json(recipe.model)},
                       {"kind", Json(recipe.kind)},
                       {"tensor_model_parallel_size", Json(config.model.tensor_model_parallel_size)},
                       {"pipeline_model_parallel_size", Json(config.model.pipeline_model_parallel_size)},
                       {"context_parallel_size", Json(config.model.context_parallel_size)},
                       {"expert_model_parallel_size", Json(config.model.expert_model_parallel_size)},
                       {"seq_length", Json(config.model.seq_length)},
                       {"global_batch_size", Json(config.train.global_batch_size.value_or(0))}});
}

int run_list(const ListRecipesOptions& options) {
  if (options.json) {
    Json list = Json::array();
    for (const recipes::Recipe& recipe : recipes::recipes()) list.items().push_back(recipe_json(recipe));
    print_json(Json::object({{"recipes", std::move(list)}}));
    return kDone;
  }
  size_t width = 0;
  for (const recipes::Recipe& recipe : recipes::recipes()) width = std::max(width, recipe.name.size());
  for (const recipes::Recipe& recipe : recipes::recipes()) {
    const config::ConfigContainer config = recipe.make();
    const config::ModelConfig& model = config.model;
    fmt::print("{:<{}}  {}, tp {} pp {} cp {} ep {}, {} tokens x {}\n", recipe.name, width, recipe.model,
               model.tensor_model_parallel_size, model.pipeline_model_parallel_size, model.context_parallel_size,
               model.expert_model_parallel_size, model.seq_length, config.train.global_batch_size.value_or(0));
  }
  fmt::print("\nviaduct pretrain --recipe NAME --print-config shows one.\n");
  return kDone;
}

}  // namespace

void add_list_recipes(CLI::App& program, Action& action) {
  add_command<ListRecipesOptions>(
      program, action, "list-recipes", "Show the ready configurations for training",
      [](CLI::App& command, ListRecipesOptions& options) {
        command.add_flag("--json", options.json, "Print one JSON object instead of text");
      },
      run_list);
}

}  // namespace viaduct::cli
