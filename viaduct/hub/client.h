// The hub's API: what a revision holds, and its files by ranges. Tries again where that may help, and says in its
// errors what to do.
#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "viaduct/core/error.h"
#include "viaduct/hub/cache.h"
#include "viaduct/hub/http.h"

namespace viaduct::hub {

/// A request that may succeed later is made so many times.
inline constexpr int kHubTries = 6;

/// A file of a revision.
struct RemoteFile {
  std::string path;  // inside the repository; checked: relative, no ".."
  uint64_t size = 0;
  std::string etag;     // SHA-256 of a large file, git's SHA-1 of a small one
  bool is_lfs = false;  // etag is the SHA-256
};

/// What a revision holds; `commit` is its full name.
struct RemoteRevision {
  std::string commit;
  std::vector<RemoteFile> files;
};

/// What several reads of one file share: the address that the hub sent on to, which is used until it refuses (its
/// signature holds for a time), and how the file is marked there. Thread-safe.
class FileAddress {
 public:
  std::string url() const;  // empty: the hub is to be asked
  /// The address that reads may go to from now on.
  void set(const std::string& url);
  /// The address refused; nothing when another has been set since.
  void forget(const std::string& url);
  /// The mark that the server of `url` gave first.
  std::string first_mark(const std::string& url, const std::string& mark);

 private:
  mutable std::mutex mutex_;
  std::string url_, marked_origin_, mark_;
};

/// Asks the hub of settings().endpoint; may be used by several threads at once.
class HubClient {
 public:
  /// `http` outlives it. `stop`: asked now and then; Interrupted is thrown when it says yes.
  HubClient(HubSettings settings, Http& http, std::function<bool()> stop = nullptr);

  /// UserError that names the repository and what to do: it does not exist (with near names), it is gated or
  /// private, it has no such revision (with those it has), the network or the server fails.
  RemoteRevision revision(const RepoName& name) const;
  /// Bytes [begin, end) of a file, in order; they come to `receive` as they arrive. UserError as above, and
  /// Changed. With `address` the server must know ranges: many reads of a few bytes are meant.
  void read(const RepoName& name, const std::string& commit, const RemoteFile& file, uint64_t begin, uint64_t end,
            const std::function<void(std::span<const std::byte>)>& receive, FileAddress* address = nullptr) const;

  /// The settings that it was made with.
  const HubSettings& settings() const { return settings_; }
  /// The last error was that no server answered.
  class Unreachable;
  /// A file is not what the listing of its commit says.
  class Changed;

 private:
  // Where a request ended, and what the hub itself said of the file on the way.
  struct Route {
    std::string url;
    std::map<std::string, std::string> hub_headers;
  };
  template <class Work>
  auto without_token(Work&& work) const;
  RemoteRevision list(const RepoName& name) const;
  void fetch_range(const RepoName& name, const std::string& commit, const RemoteFile& file, uint64_t begin,
                   uint64_t end, const std::function<void(std::span<const std::byte>)>& receive,
                   FileAddress* address) const;
  void check_file(const RepoName& name, const std::string& commit, const RemoteFile& file,
                  const HttpResponse& response, const Route& route, uint64_t begin, FileAddress* address) const;
  HttpResponse fetch(std::string url, const HttpRequest& wanted, const Receive& receive,
                     Route* route = nullptr) const;
  void pause(int attempt, const HttpResponse& response) const;
  HttpResponse api(const RepoName& name, const std::string& url) const;
  [[noreturn]] void refuse(const RepoName& name, const HttpResponse& response, const std::string& url) const;
  std::string near_names(const RepoName& name) const;
  std::string other_revisions(const RepoName& name) const;

  HubSettings settings_;
  Http& http_;
  std::function<bool()> stop_;
};

/// A file is not what the listing of its commit says.
class HubClient::Changed : public UserError {
 public:
  using UserError::UserError;
};

/// No server answered: where there is a cached copy it can be used.
class HubClient::Unreachable : public UserError {
 public:
  using UserError::UserError;
};

}  // namespace viaduct::hub
