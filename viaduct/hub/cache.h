// The cache that huggingface_hub keeps on the disk: <cache>/models--org--name/{blobs,snapshots/<commit>,refs}.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "viaduct/core/file.h"

namespace viaduct::hub {

/// "org/name@revision", as a command line names a model.
struct RepoName {
  std::string id;                 // "org/name", or "name" of the few that have no org
  std::string revision = "main";  // branch, tag or commit
  bool given = false;             // a revision was named
};

/// nullopt when the text cannot be a name of the hub: letters, digits, '-', '_', '.', at most one '/'.
std::optional<RepoName> parse_repo_name(const std::string& text);

/// Where things are, from the environment as huggingface_hub reads it: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE,
/// HF_HOME, XDG_CACHE_HOME, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE, HF_HUB_DISABLE_IMPLICIT_TOKEN.
struct HubSettings {
  Path cache;
  Path token_file;
  std::string endpoint;
  std::string token;  // empty: none. Never to be shown
  bool offline = false;

  /// UserError for a token with characters that no token has.
  static HubSettings from_environment();
};

/// One model's part of the cache.
class RepoCache {
 public:
  /// `cache`: HubSettings::cache; nothing is made on the disk.
  RepoCache(const Path& cache, const std::string& repo_id);

  /// Where the cache keeps a file by its etag, the folder of a commit, and the lock of a blob; there or not.
  Path blob(const std::string& etag) const { return root_ / "blobs" / etag; }
  Path snapshot(const std::string& commit) const { return root_ / "snapshots" / commit; }
  Path lock_file(const std::string& etag) const { return locks_ / (etag + ".lock"); }

  /// <cache>/models--org--name.
  const Path& root() const { return root_; }

  /// The commit that a branch or tag stood for when it was last fetched; a commit is itself.
  std::optional<std::string> commit_of(const std::string& revision) const;
  /// Notes the commit that a branch or tag stands for now; nothing for a commit.
  void set_ref(const std::string& revision, const std::string& commit) const;
  /// Where a model lies of which only headers and small files were fetched. Programs that read the cache pass over
  /// it.
  Path stream(const std::string& commit) const { return root_ / ".viaduct-stream" / commit; }
  /// Makes `folder`/<file>, with a folder of this part of the cache, a relative link to the blob.
  void link(const Path& folder, const std::string& file, const std::string& etag) const;

 private:
  Path root_, locks_;
};

/// An flock on a file, made where there is none, as huggingface_hub takes it. Waits until it has it; throws
/// Interrupted when `stop` says so.
class FileLock {
 public:
  /// UserError when the file cannot be made or locked.
  FileLock(const Path& path, const std::function<bool()>& stop);
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

 private:
  int fd_ = -1;
};

/// Writes the token where huggingface_hub finds it, for the user alone (mode 0600).
void save_token(const HubSettings& settings, const std::string& token);

/// Is it the name of a commit, 40 hexadecimal digits, and not of a branch or tag?
bool is_commit(std::string_view revision);

}  // namespace viaduct::hub
