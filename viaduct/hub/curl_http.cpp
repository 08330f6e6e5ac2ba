// libcurl is loaded at run time: the program stays one file that links only the C library, and converts where there
// is no libcurl.
#include <curl/curl.h>
#include <dlfcn.h>

#include <algorithm>
#include <cctype>
#include <mutex>

#include "viaduct/core/error.h"
#include "viaduct/core/version.h"
#include "viaduct/hub/http.h"

namespace viaduct::hub {

namespace {

constexpr size_t kErrorBody = 64u << 10;

struct Library {
  decltype(&curl_global_init) global_init = nullptr;
  decltype(&curl_easy_init) easy_init = nullptr;
  decltype(&curl_easy_cleanup) easy_cleanup = nullptr;
  decltype(&curl_easy_reset) easy_reset = nullptr;
  decltype(&curl_easy_setopt) easy_setopt = nullptr;
  decltype(&curl_easy_getinfo) easy_getinfo = nullptr;
  decltype(&curl_easy_perform) easy_perform = nullptr;
  decltype(&curl_easy_strerror) easy_strerror = nullptr;
  decltype(&curl_slist_append) slist_append = nullptr;
  decltype(&curl_slist_free_all) slist_free_all = nullptr;
};

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  VIADUCT_USER_CHECK(function, "the libcurl of this machine has no {}; it is too old", name);
}

Library load() {
  void* library = nullptr;
  for (const char* name : {"libcurl.so.4", "libcurl-gnutls.so.4", "libcurl.so"}) {
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library) break;
  }
  VIADUCT_USER_CHECK(
      library,
      "libcurl, which the hub is read with, is not on this machine. Install it (Debian and Ubuntu: apt "
      "install libcurl4), or give a folder that is on the disk");
  Library curl;
  find(library, "curl_global_init", curl.global_init);
  find(library, "curl_easy_init", curl.easy_init);
  find(library, "curl_easy_cleanup", curl.easy_cleanup);
  find(library, "curl_easy_reset", curl.easy_reset);
  find(library, "curl_easy_setopt", curl.easy_setopt);
  find(library, "curl_easy_getinfo", curl.easy_getinfo);
  find(library, "curl_easy_perform", curl.easy_perform);
  find(library, "curl_easy_strerror", curl.easy_strerror);
  find(library, "curl_slist_append", curl.slist_append);
  find(library, "curl_slist_free_all", curl.slist_free_all);
  VIADUCT_USER_CHECK(curl.global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK, "libcurl cannot be started");
  return curl;
}

const Library& library() {
  static const Library curl = load();
  return curl;
}

// Handles that no transfer uses now. Each keeps its connections; the one that was used last is taken first.
class Handles {
 public:
  CURL* take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        CURL* handle = free_.back();
        free_.pop_back();
        return handle;
      }
    }
    CURL* handle = library().easy_init();
    VIADUCT_CHECK(handle);
    return handle;
  }
  void give_back(CURL* handle) {
    const std::lock_guard lock(mutex_);
    free_.push_back(handle);
  }
  ~Handles() {
    for (CURL* handle : free_) library().easy_cleanup(handle);
  }

 private:
  std::mutex mutex_;
  std::vector<CURL*> free_;
};

struct Transfer {
  CURL* curl = nullptr;
  HttpResponse response;
  const Receive* receive = nullptr;
  const std::function<bool()>* stop = nullptr;
  uint64_t limit = 0;
  bool too_long = false;

  int status() {
    long status = 0;
    library().easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    return static_cast<int>(status);
  }
};

size_t on_header(char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  std::string line(data, size * count);
  if (line.starts_with("HTTP/")) transfer.response.headers.clear();
  const size_t colon = line.find(':');
  if (colon != std::string::npos && transfer.response.headers.size() < 200) {
    std::string name = line.substr(0, colon), value = line.substr(colon + 1);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    const size_t from = value.find_first_not_of(" \t"), to = value.find_last_not_of(" \t\r\n");
    transfer.response.headers[name] = from == std::string::npos ? "" : value.substr(from, to - from + 1);
  }
  return size * count;
}

size_t on_body(char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const size_t bytes = size * count;
  const int status = transfer.status();
  if (status < 200 || status >= 300) {
    const size_t room = kErrorBody - std::min(kErrorBody, transfer.response.body.size());
    transfer.response.body.append(data, std::min(room, bytes));
    return bytes;
  }
  if (*transfer.receive) {
    if ((*transfer.receive)(status, {reinterpret_cast<const std::byte*>(data), bytes})) return bytes;
    transfer.response.stopped = true;
    return 0;
  }
  if (transfer.response.body.size() + bytes > transfer.limit) {
    transfer.too_long = true;
    return 0;
  }
  transfer.response.body.append(data, bytes);
  return bytes;
}

int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (!*transfer.stop || !(*transfer.stop)()) return 0;
  transfer.response.stopped = true;
  return 1;
}

class CurlHttp : public Http {
 public:
  HttpResponse get(const HttpRequest& request, const Receive& receive, const std::function<bool()>& stop) override {
    const Library& curl = library();
    Transfer transfer;
    transfer.curl = handles_.take();
    const std::unique_ptr<CURL, std::function<void(CURL*)>> returned(
        transfer.curl, [this](CURL* handle) { handles_.give_back(handle); });
    transfer.receive = &receive;
    transfer.stop = &stop;
    transfer.limit = request.limit;
    curl.easy_reset(transfer.curl);
    const auto set = [&](CURLoption option, auto value) { curl.easy_setopt(transfer.curl, option, value); };
    curl_slist* headers = nullptr;
    for (const std::string& header : request.headers) headers = curl.slist_append(headers, header.c_str());
    char error[CURL_ERROR_SIZE] = "";
    const std::string agent = fmt::format("viaduct/{}", version());
    set(CURLOPT_URL, request.url.c_str());
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_FOLLOWLOCATION, 0L);
    set(CURLOPT_HTTPHEADER, headers);
    set(CURLOPT_USERAGENT, agent.c_str());
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_CONNECTTIMEOUT, 15L);
    set(CURLOPT_LOW_SPEED_LIMIT, 1L);
    set(CURLOPT_LOW_SPEED_TIME, 30L);
    set(CURLOPT_BUFFERSIZE, 512L * 1024);
    set(CURLOPT_TCP_KEEPALIVE, 1L);
    set(CURLOPT_ERRORBUFFER, error);
    set(CURLOPT_HEADERFUNCTION, on_header);
    set(CURLOPT_HEADERDATA, &transfer);
    set(CURLOPT_WRITEFUNCTION, on_body);
    set(CURLOPT_WRITEDATA, &transfer);
    set(CURLOPT_NOPROGRESS, 0L);
    set(CURLOPT_XFERINFOFUNCTION, on_progress);
    set(CURLOPT_XFERINFODATA, &transfer);
    std::string range;
    if (request.range) {
      range = fmt::format("{}-{}", request.range->first, request.range->second - 1);
      set(CURLOPT_RANGE, range.c_str());
    }
    const CURLcode result = curl.easy_perform(transfer.curl);
    curl.slist_free_all(headers);
    long status = 0;
    curl.easy_getinfo(transfer.curl, CURLINFO_RESPONSE_CODE, &status);
    transfer.response.status = static_cast<int>(status);
    if (transfer.too_long) {
      transfer.response.failure = fmt::format("the answer has more than {} bytes", request.limit);
    } else if (result != CURLE_OK && !transfer.response.stopped) {
      transfer.response.failure = *error ? error : curl.easy_strerror(result);
    }
    return std::move(transfer.response);
  }

 private:
  Handles handles_;
};

}  // namespace

Http& curl_http() {
  (void)library();
  static CurlHttp http;
  return http;
}

}  // namespace viaduct::hub
