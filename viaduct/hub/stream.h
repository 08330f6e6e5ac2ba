// Models of the hub that are read where they are: a folder with everything of one but the data of its weights.
#pragma once

#include <string>
#include <vector>

#include "viaduct/core/progress.h"
#include "viaduct/hub/client.h"

namespace viaduct::hub {

/// A model whose weights are still with the hub.
struct StreamedModel {
  RepoName name;
  std::string commit;
  Path folder;
  std::vector<RemoteFile> weights;  // folder / path is the stub of each (formats/safetensors.h)
};

/// Brings a revision's small files into the cache, checked as download does, and the headers of its *.safetensors
/// as stubs, which are sparse files: folder looks like the model's snapshot and takes little room. A stub's time of
/// change is made of the file's hash, so that it tells one content from another however often it is made. What is
/// there is not fetched again. UserError as HubClient and download, offline, for weights in another form, and for a
/// header that is none.
StreamedModel prepare_stream(const HubClient& client, const RepoName& name, Progress* progress);

}  // namespace viaduct::hub
