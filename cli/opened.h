// Checkpoints that are only looked at: through the rules where the architecture is known, else as the format lists
// them.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/verify.h"

namespace viaduct::cli {

struct Opened {
  Path path;
  std::unique_ptr<bridge::Checkpoint> known;  // null: the architecture is not known
  bridge::RawCheckpoint raw;                  // filled when `known` is null
  std::string why_raw;                        // then the reason

  /// `beside`: what it is compared with, whose form of names is taken.
  bridge::View view(const Opened* beside = nullptr) const {
    if (!known) return bridge::raw_view(raw);
    return bridge::hf_view(*known, beside && beside->known ? &beside->known->graph() : nullptr);
  }
};

/// A path as it is; a name of the hub (org/name, org/name@revision) as the folder that it was downloaded to.
Path model_path(const std::string& text);
/// open_checkpoint of a path or of a name of the hub, which becomes the record's origin.
/// `stream`: it must be such a name, whose weights stay at the hub until they are read.
std::unique_ptr<bridge::Checkpoint> open_model(const std::string& text, const bridge::OpenOptions& options = {},
                                               bool stream = false);

/// UserError for a checkpoint of a known architecture that is damaged, and for what is no checkpoint at all.
Opened open_to_look(const Path& path, std::optional<int64_t> iteration);

/// Of a model of the hub, by name, whose weights stay there. UserError when its architecture is not known.
Opened open_to_look_streamed(const std::string& text);

/// Two checkpoints in one language of names: both through the rules, or, when one architecture is unknown, both as
/// they are stored. UserError when that cannot be (one is torch_dist, the other is not).
std::pair<Opened, Opened> open_pair(const Path& a, const Path& b, std::optional<int64_t> iteration);
/// The same of two that are opened.
std::pair<Opened, Opened> match_pair(Opened a, Opened b, std::optional<int64_t> iteration);

/// The iteration folder of a Megatron checkpoint, any other path as it is.
Path data_folder(const Path& path, std::optional<int64_t> iteration);

}  // namespace viaduct::cli
