// Fine-tuning in C++: a LoRA adapter of a Hugging Face model, from prompts and answers.
//
//   finetune HF_FOLDER DATA_FOLDER ADAPTER_FOLDER [OVERRIDE...]
//
// DATA_FOLDER has training.jsonl with lines like {"input": "Two and two?", "output": "Four."}. Alone, or under
// torchrun.
#include "viaduct/training/finetune.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "viaduct/bridge/auto_bridge.h"
#include "viaduct/config/overrides.h"
#include "viaduct/core/error.h"

using namespace viaduct;

int main(int argc, char** argv) try {
  VIADUCT_USER_CHECK(argc >= 4, "usage: {} HF_FOLDER DATA_FOLDER ADAPTER_FOLDER [OVERRIDE...]", argv[0]);
  const std::string hf = argv[1];

  config::ConfigContainer config;
  config.model = bridge::AutoBridge::from_hf_pretrained(hf).to_megatron_provider();
  config.checkpoint.pretrained_checkpoint = hf;
  config.mixed_precision = std::string("bf16_mixed");
  config.tokenizer.tokenizer_type = "HuggingFaceTokenizer";
  config.tokenizer.tokenizer_model = hf;
  config.peft = config::LoRA{.alpha = 16, .dim = 8};  // of all linear layers; without it all weights are trained

  config::GPTSFTDatasetConfig data;
  data.dataset_root = argv[2];
  data.seq_length = config.model.seq_length = 128;
  config.dataset = data;

  config.train.train_iters = 10;
  config.train.global_batch_size = 4;
  config.train.micro_batch_size = 2;
  config.optimizer.lr = 1e-3;
  config.validation.eval_iters = 1;  // where there is a validation.jsonl
  config.logger.log_interval = 1;

  config::apply_overrides(config, std::vector<std::string>(argv + 4, argv + argc));
  parallel::ProcessWorld world;
  training::SetupOptions options;
  options.print = [](const std::string& line) { fmt::print("{}\n", line); };
  training::finetune(std::move(config), world, training::gpt_forward_step, {}, options, argv[3]);
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "finetune: {}\n", error.what());
  return 2;
}
