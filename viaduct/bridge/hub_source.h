// Models of the hub as sources: their weights come by ranges over the network and never lie on this machine.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/core/progress.h"
#include "viaduct/hub/stream.h"

namespace viaduct::bridge {

/// The data behind a model's stubs; any other file is one of this machine's. `stop`: asked now and then; reading
/// then throws Interrupted. What the hub does not give is a RemoteError, a file that is not the listed one a
/// UserError.
std::shared_ptr<const ByteStore> hub_store(const hub::StreamedModel& model, const hub::HubSettings& settings,
                                           hub::Http& http, std::function<bool()> stop);

/// Opens "org/name" or "org/name@revision", which becomes the record's origin, without its weights: headers and
/// small files are fetched (hub::prepare_stream), data when they are converted. UserError for a text that is no
/// such name, as prepare_stream, and as open_checkpoint.
std::unique_ptr<Checkpoint> open_streamed(const std::string& text, OpenOptions options, Progress* progress,
                                          const std::function<bool()>& stop);

/// The tensors of a streamed model as its files list them.
std::unique_ptr<formats::TensorReader> open_reader(const Checkpoint& streamed);

}  // namespace viaduct::bridge
