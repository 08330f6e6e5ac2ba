#include "viaduct/training/finetune.h"

#include "viaduct/core/error.h"
#include "viaduct/peft/export.h"
#include "viaduct/training/checkpoint_load.h"
#include "viaduct/training/finetune_data.h"

namespace viaduct::training {

void check_finetuning(const config::ConfigContainer& config) {
  VIADUCT_USER_CHECK(config.checkpoint.pretrained_checkpoint || find_checkpoint(config.checkpoint),
                     "fine-tuning without weights to begin with: set checkpoint.pretrained_checkpoint to a Hugging "
                     "Face folder or name, or to a Megatron checkpoint (checkpoint.load holds none yet)");
  VIADUCT_USER_CHECK(!config.peft || config.checkpoint.pretrained_checkpoint,
                     "a run with adapters needs the model that they are for: set checkpoint.pretrained_checkpoint "
                     "(checkpoint.load holds the adapters alone)");
  VIADUCT_USER_CHECK(config.dataset && std::holds_alternative<config::GPTSFTDatasetConfig>(*config.dataset),
                     "fine-tuning needs dataset._target_ GPTSFTDatasetConfig (FinetuningDatasetConfig) with "
                     "dataset.dataset_root; pretrain takes text");
}

Ended finetune(config::ConfigContainer config, parallel::ProcessWorld& world, const ForwardStep& forward_step,
               const Callbacks& callbacks, const SetupOptions& options, const Path& adapter_folder) {
  check_finetuning(config);
  VIADUCT_USER_CHECK(adapter_folder.empty() || config.peft,
                     "an adapter is to be written, but none is trained: add a section peft");
  VIADUCT_USER_CHECK(adapter_folder.empty() || !std::filesystem::exists(adapter_folder) ||
                         std::filesystem::is_empty(adapter_folder),
                     "{} holds something already", adapter_folder.string());
  const auto state = setup(std::move(config), world, options);
  state->timers->start(kDataSetup, 0, /*barrier=*/true);
  const FinetuneData data(*state, open_tokenizer(state->cfg.tokenizer));
  state->timers->stop(kDataSetup);
  const Ended ended = train_and_test(*state, forward_step, data, callbacks);
  if (!adapter_folder.empty()) {
    peft::save_peft_folder(state->chunks(), *state->context, peft::read_options(*state->cfg.peft),
                           state->cfg.checkpoint.pretrained_checkpoint.value_or(""), adapter_folder);
    state->say(fmt::format("adapter: {}", adapter_folder.string()));
  }
  return ended;
}

}  // namespace viaduct::training
