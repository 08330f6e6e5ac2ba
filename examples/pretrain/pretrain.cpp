// Pretraining in C++: a recipe, what is to be different, the run.
//
//   pretrain [OVERRIDE...]          for example: pretrain train.train_iters=20 checkpoint.save=run
//   checkpoint.load=run
//
// Alone, or under torchrun: torchrun --no-python --nproc-per-node 2 pretrain model.tensor_model_parallel_size=2
#include "viaduct/training/pretrain.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "viaduct/config/overrides.h"
#include "viaduct/recipes/common.h"

using namespace viaduct;

int main(int argc, char** argv) try {
  // Megatron Bridge's recipe: sizes, optimizer, schedule, mock data, checkpoints in nemo_experiments/default.
  config::ConfigContainer config = recipes::recipe("llama32_1b_pretrain_config").make();

  // The same architecture at a size for any machine. Without these lines the run is that of the real model.
  config.model.num_layers = 2;
  config.model.hidden_size = 64;
  config.model.ffn_hidden_size = 160;
  config.model.num_attention_heads = 4;
  config.model.num_query_groups = 2;
  config.model.kv_channels = 16;
  config.model.vocab_size = 1024;
  config.tokenizer.vocab_size = 1000;
  recipes::set_seq_length(config, 32);
  config.train.train_iters = 10;
  config.train.global_batch_size = 8;
  config.train.micro_batch_size = 2;
  config.scheduler.lr_warmup_iters = 2;
  config.optimizer.lr = 3e-3;
  config.validation.eval_iters = 1;
  config.logger.log_interval = 1;

  config::apply_overrides(config, std::vector<std::string>(argv + 1, argv + argc));
  parallel::ProcessWorld world;
  training::SetupOptions options;
  options.print = [](const std::string& line) { fmt::print("{}\n", line); };
  training::pretrain(std::move(config), world, training::gpt_forward_step, {}, options);
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "pretrain: {}\n", error.what());
  return 2;
}
