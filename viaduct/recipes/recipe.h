// Recipes: ready configurations of public models, by upstream's names. Nothing is fetched: the model's sizes are in
// the recipe; data is mock data until a path is given.
//
//   config::ConfigContainer config = recipes::recipe("llama32_1b_pretrain_config").make();
//   config.train.train_iters = 100;
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/config/config_container.h"

namespace viaduct::recipes {

/// A recipe of upstream's library.
struct Recipe {
  std::string_view name;   // upstream's function without "_config": "llama32_1b_pretrain"
  std::string_view model;  // the model's name on the hub: "meta-llama/Llama-3.2-1B"
  std::string_view kind;   // "pretrain", "sft" or "peft"
  /// The configuration, not finalized. Paths of results begin in the current folder's nemo_experiments/default.
  config::ConfigContainer (*make)();
};

/// All of them, by family and size.
const std::vector<Recipe>& recipes();
/// By its name, with or without "_config"; "<model>_finetune" is "<model>_peft". UserError with the nearest name.
const Recipe& recipe(std::string_view name);

}  // namespace viaduct::recipes
