// HTTP as the hub needs it: GET, headers, ranges, no redirects followed by themselves.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace viaduct::hub {

/// A GET request: of a whole body, or of a range of it.
struct HttpRequest {
  std::string url;                                     // http or https
  std::vector<std::string> headers;                    // "Name: value"
  std::optional<std::pair<uint64_t, uint64_t>> range;  // bytes [first, second)
  uint64_t limit = 64u << 20;                          // of the body that is kept; ignored where `receive` takes it
};

/// What came of a request; what failed is said here and not thrown.
struct HttpResponse {
  int status = 0;                              // 0: no answer, `failure` says why
  std::map<std::string, std::string> headers;  // names in small letters; of the last of several
  std::string body;                            // of an error always, up to 64 KiB; else unless `receive` took it
  std::string failure;                         // "Could not resolve host: ..."
  bool stopped = false;                        // `receive` or `stop` ended it

  /// Empty when there is none; `name` in small letters.
  std::string header(const std::string& name) const {
    const auto it = headers.find(name);
    return it == headers.end() ? "" : it->second;
  }
  /// Might the same request succeed later?
  bool may_help_again() const { return status == 0 || status == 408 || status == 429 || status >= 500; }
};

/// Called with the status and the bytes of a 2xx body as they come; false ends the transfer.
using Receive = std::function<bool(int status, std::span<const std::byte>)>;

/// Does requests. Tests have their own.
class Http {
 public:
  virtual ~Http() = default;
  /// Thread-safe; connections are kept. `stop` is asked now and then.
  virtual HttpResponse get(const HttpRequest& request, const Receive& receive = nullptr,
                           const std::function<bool()>& stop = nullptr) = 0;
};

/// Through libcurl, which is loaded when this is called first. UserError that says what to install when there is
/// none.
Http& curl_http();

/// A URL without its query, which may hold a signature: for messages.
std::string url_for_message(const std::string& url);
/// "scheme://host:port" of a URL, small letters.
std::string origin_of(const std::string& url);
/// `location` as seen from `url`: absolute as it is, its scheme in small letters, else on the same host.
std::string absolute_url(const std::string& url, std::string location);
/// "a b" -> "a%20b"; '/' stays.
std::string url_path(std::string_view text);

}  // namespace viaduct::hub
