// Packs of fine-tuning examples: made of lines, or read from files that hold them already.
#pragma once

#include <c10/core/Device.h>

#include <memory>
#include <string>

#include "viaduct/config/config_container.h"
#include "viaduct/data/packed_collate.h"
#include "viaduct/data/sft_dataset.h"
#include "viaduct/parallel/group.h"
#include "viaduct/text/tokenizer.h"
#include "viaduct/training/sft_format.h"

namespace viaduct::training {

/// The packs of a section dataset with offline_packing_specs.
struct SftPacks {
  std::shared_ptr<const data::PackedDataset> train;
  std::shared_ptr<const data::PackedDataset> validation;  // null: there is none
  data::PackedCollateOptions collate;
  std::string summary;  // a line to tell how well packs are filled; empty where all were read
};

/// packed_train_data_path and packed_val_data_path where they are given, read by every rank. Else the first rank of
/// `world` packs training.jsonl and validation.jsonl of dataset.dataset_root in memory, and the others get its
/// packs through tensors on `device`: they need no file. `cut`: ranks (of sequence parallelism) that share a row.
/// Collective. UserError on all ranks for what cannot be packed, or is no .npy file of packs.
SftPacks open_packs(const config::GPTSFTDatasetConfig& dataset, const SftSettings& settings,
                    const std::shared_ptr<const text::Tokenizer>& tokenizer, int64_t cut,
                    const parallel::Group& world, c10::Device device);

}  // namespace viaduct::training
