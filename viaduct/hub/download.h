// Downloads into the hub's cache, and models by name.
#pragma once

#include <string>
#include <vector>

#include "viaduct/core/file.h"
#include "viaduct/core/progress.h"
#include "viaduct/hub/client.h"

namespace viaduct::hub {

/// Which files of a revision are wanted, and how they are fetched.
struct DownloadOptions {
  std::vector<std::string> include;  // patterns of file names ("*.json"); none: all
  std::vector<std::string> exclude;
  bool model_files =
      false;  // of several forms of the weights the one that is read: no *.bin beside *.safetensors ...
  int connections = 4;
  Progress* progress = nullptr;
};

/// What was downloaded, and where it lies.
struct DownloadReport {
  Path snapshot;
  std::string commit;
  uint64_t files = 0;
  uint64_t bytes = 0;  // that came over the network
  double seconds = 0;
};

/// Brings a revision's files into the cache, parts of a file at a time over several connections, and checks each
/// file against its SHA-256 (small files: git's SHA-1). What an interrupted run has is kept
/// (blobs/<etag>.viaduct.incomplete) and not fetched again. UserError as HubClient, and for a file whose bytes are
/// not those of its hash.
DownloadReport download(const HubClient& client, const RepoName& name, const DownloadOptions& options);

/// The files of a revision that the options choose.
std::vector<RemoteFile> chosen_files(const RemoteRevision& revision, const DownloadOptions& options);
/// As download, of files that were chosen: no branch comes to stand for the commit, since it may not be whole.
DownloadReport download_files(const HubClient& client, const RepoName& name, const std::string& commit,
                              const std::vector<RemoteFile>& files, const DownloadOptions& options);

/// The folder that a name or path stands for.
struct ResolvedModel {
  Path path;
  std::string name;    // "org/name"; empty: the text was a path
  std::string commit;  // of a model of the hub
};

/// A path that exists as it is; else, for a text that can be a name of the hub, the folder of its snapshot:
/// downloaded, or, offline and when no server answers, as it was downloaded before. UserError that says both when
/// it is neither. `include`: patterns of the only files that are fetched; none: all that a conversion reads.
ResolvedModel resolve_model(const std::string& text, Progress* progress,
                            const std::vector<std::string>& include = {});

/// Does a file name match a pattern of '*', '?' and '[...]', as fnmatch sees it: '*' also takes '/'?
bool matches_pattern(const std::string& pattern, const std::string& name);

}  // namespace viaduct::hub
