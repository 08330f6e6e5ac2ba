// What a Megatron checkpoint says of its model beyond the weights, whoever wrote it.
#pragma once

#include <optional>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/config/model_config.h"
#include "viaduct/formats/pickle_value.h"

namespace viaduct::bridge {

/// A checkpoint's model and what is known of the source that it came from.
struct MegatronConfig {
  SourceRecord record;  // its config is always there
  models::ArchSpec arch;
};

/// Megatron-LM's args: of the common state (torch_dist) or of the first rank's file; None when there are none. For
/// a look without opening the whole checkpoint.
formats::PickleValue read_megatron_args(const Path& iteration);

/// The provider that the checkpoint's own files describe: run_config.yaml (Megatron Bridge), the context folder of
/// NeMo 2, Megatron-LM's `args`; nullopt when there is none of them. `vocabulary_rows`: of the stored embedding,
/// for files that do not give the vocabulary's size; 0: unknown. UserError naming file and key when one is damaged.
std::optional<config::ModelConfig> find_provider(const Path& iteration, const formats::PickleValue& args,
                                                 int64_t vocabulary_rows = 0);

/// What import kept beside the checkpoint, or beside another iteration of its run; nullopt when it kept nothing.
std::optional<SourceRecord> find_record(const Path& iteration);

/// The model of the checkpoint in folder `iteration`: of --reference, else of what viaduct kept beside it (or
/// beside another iteration of the run), else of find_provider. UserError that says what is missing.
MegatronConfig find_megatron_config(const Path& iteration, const formats::PickleValue& args,
                                    const OpenOptions& options, int64_t vocabulary_rows = 0);

}  // namespace viaduct::bridge
