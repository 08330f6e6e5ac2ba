#include "viaduct/hub/client.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "viaduct/core/json.h"
#include "viaduct/core/strings.h"

namespace viaduct::hub {

namespace {

constexpr int kRedirects = 10;
constexpr size_t kMostFiles = 100'000;
constexpr size_t kMostPages = 2'000;  // a page of the Hub's listing holds 1000 entries: far more than kMostFiles

// What the server asks for, else a second that doubles with each try; at most a minute.
std::chrono::milliseconds pause_before(int attempt, const HttpResponse& response) {
  const auto it = response.headers.find("retry-after");
  if (it != response.headers.end())
    if (const long seconds = std::strtol(it->second.c_str(), nullptr, 10); seconds > 0)
      return std::chrono::milliseconds(1000 * std::min(seconds, 60L));
  return std::chrono::milliseconds(250 << attempt);
}
// The server's own words, one line of them, for an error.
std::string said(const HttpResponse& response) {
  std::string text = response.header("x-error-message");
  if (text.empty() && response.body.starts_with("{")) {
    try {
      const Json answer = Json::parse(response.body, "the answer");
      if (const Json* error = answer.find("error"); error && error->is_string()) text = error->as_string();
    } catch (const UserError&) {
      // Not JSON after all: it says nothing.
    }
  }
  text = text.substr(0, 200);
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' '; }, ' ');
  return text.empty() ? "" : fmt::format(" (the server says: {})", text);
}

std::string answer_text(const HttpResponse& response, const std::string& url) {
  return fmt::format("{} answers {}{}{}", url_for_message(url), response.status,
                     response.failure.empty() ? "" : ": " + response.failure, said(response));
}

void check_path(const std::string& path, const std::string& where) {
  bool good = !path.empty() && path.size() < 1000 && path.front() != '/' && path.back() != '/' && is_utf8(path) &&
              path.find('\\') == std::string::npos &&
              std::none_of(path.begin(), path.end(), [](unsigned char c) { return c < ' ' || c == 127; });
  for (const Path& word : Path(path)) good = good && word != ".." && word != "." && !word.empty();
  VIADUCT_USER_CHECK(good && path.find("//") == std::string::npos,
                     "{} lists a file of the name \"{}\", which may not be a file's; nothing was written", where,
                     path);
}

std::string checked_etag(const std::string& text, size_t digits, const std::string& where,
                         const std::string& file) {
  VIADUCT_USER_CHECK(text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string::npos,
                     "{}: the hash of {} is \"{}\", not {} digits", where, file, text, digits);
  return text;
}

// The address of the next page in a Link header.
std::string next_page(const HttpResponse& response) {
  const std::string link = response.header("link");
  const size_t rel = link.find("rel=\"next\"");
  if (rel == std::string::npos) return {};
  const size_t open = link.rfind('<', rel), close = link.find('>', open);
  if (open == std::string::npos || close == std::string::npos) return {};
  return link.substr(open + 1, close - open - 1);
}

}  // namespace

HubClient::HubClient(HubSettings settings, Http& http, std::function<bool()> stop)
    : settings_(std::move(settings)), http_(http), stop_(std::move(stop)) {
  VIADUCT_USER_CHECK(settings_.endpoint.starts_with("https://") || settings_.endpoint.starts_with("http://"),
                     "HF_ENDPOINT is \"{}\", not the address of a server (https://...)", settings_.endpoint);
}

// One request with its redirects; the token goes to the hub alone.
HttpResponse HubClient::fetch(std::string url, const HttpRequest& wanted, const Receive& receive,
                              Route* route) const {
  for (int hop = 0; hop < kRedirects; ++hop) {
    HttpRequest request = wanted;
    request.url = url;
    const bool hub = origin_of(url) == origin_of(settings_.endpoint);
    if (hub && !settings_.token.empty()) request.headers.push_back("Authorization: Bearer " + settings_.token);
    HttpResponse response = http_.get(request, receive, stop_);
    if (stop_ && stop_()) throw Interrupted("interrupted");
    if (route) {
      route->url = url;
      if (hub) route->hub_headers = response.headers;
    }
    const bool redirect = response.status == 301 || response.status == 302 || response.status == 303 ||
                          response.status == 307 || response.status == 308;
    if (!redirect) return response;
    const std::string location = response.header("location");
    VIADUCT_USER_CHECK(!location.empty(), "{} answers {} without a place to go to", url_for_message(url),
                       response.status);
    const std::string next = absolute_url(url, location);
    VIADUCT_USER_CHECK(next.starts_with("https://") || next.starts_with("http://"),
                       "{} sends on to {}, which is no web address", url_for_message(url), url_for_message(next));
    VIADUCT_USER_CHECK(!url.starts_with("https://") || next.starts_with("https://"),
                       "{} sends on to {}, which is not encrypted", url_for_message(url), url_for_message(next));
    url = next;
  }
  throw UserError(fmt::format("{} sends on more than {} times", url_for_message(url), kRedirects));
}

void HubClient::pause(int attempt, const HttpResponse& response) const {
  using Clock = std::chrono::steady_clock;
  for (const auto end = Clock::now() + pause_before(attempt, response); Clock::now() < end;) {
    if (stop_ && stop_()) throw Interrupted("interrupted");
    std::this_thread::sleep_for(std::min<Clock::duration>(end - Clock::now(), std::chrono::milliseconds(100)));
  }
}

HttpResponse HubClient::api(const RepoName& name, const std::string& url) const {
  HttpResponse response;
  for (int attempt = 0; attempt < kHubTries; ++attempt) {
    response = fetch(url, {}, nullptr);
    if (response.status >= 200 && response.status < 300 && response.failure.empty()) return response;
    if (!response.may_help_again() || attempt + 1 == kHubTries) break;
    // No name server, nobody listening: trying on would only make the user wait.
    if (response.status == 0 && attempt >= 2) break;
    pause(attempt, response);
  }
  refuse(name, response, url);
}

void HubClient::refuse(const RepoName& name, const HttpResponse& response, const std::string& url) const {
  const std::string page = fmt::format("{}/{}", settings_.endpoint, name.id);
  if (response.status == 0)
    throw Unreachable(fmt::format("{} does not answer: {}. Check the network (and HF_ENDPOINT)", origin_of(url),
                                  response.failure));
  const std::string code = response.header("x-error-code");
  // A server that the hub sends on to knows neither names nor tokens.
  if (origin_of(url) != origin_of(settings_.endpoint)) throw UserError(answer_text(response, url));
  if (response.status == 404 || code == "RepoNotFound" || code == "RevisionNotFound" || code == "EntryNotFound") {
    if (code == "RevisionNotFound")
      throw UserError(fmt::format("{} has no revision \"{}\"{}", name.id, name.revision, other_revisions(name)));
    if (code == "EntryNotFound")
      throw UserError(
          fmt::format("{} is not (or no more) a file of {} at {}", url_for_message(url), name.id, name.revision));
    if (response.status == 404 || settings_.token.empty())
      throw UserError(fmt::format(
          "there is no model {} at {}{}{}", name.id, settings_.endpoint, near_names(name),
          settings_.token.empty() ? ". If it is private or gated, log in first (viaduct login, or HF_TOKEN)" : ""));
  }
  if (response.status == 401 || response.status == 403) {
    if (settings_.token.empty())
      throw UserError(
          fmt::format("{} is gated or private, and no token is known: ask for access at {}, then log in "
                      "(viaduct login, or HF_TOKEN){}",
                      name.id, page, said(response)));
    throw UserError(
        fmt::format("{} is gated or private, and the token that is known gives no access to it: ask for "
                    "access at {}, and check what the token may read{}",
                    name.id, page, said(response)));
  }
  throw UserError(answer_text(response, url));
}

// Names that a search finds, for an error; a search that fails finds none.
std::string HubClient::near_names(const RepoName& name) const {
  const std::string word = name.id.substr(name.id.find('/') + 1);
  const HttpResponse response =
      fetch(fmt::format("{}/api/models?limit=5&search={}", settings_.endpoint, url_path(word)), {}, nullptr);
  if (response.status != 200) return "";
  std::vector<std::string> names;
  try {
    const Json found = Json::parse(response.body, "the search");
    for (const Json& model : found.items())
      if (const Json* id = model.find("id"); id && id->is_string() && parse_repo_name(id->as_string()))
        names.push_back(id->as_string());
  } catch (const UserError&) {
    return "";  // not the answer of a search
  }
  return names.empty() ? "" : fmt::format(" (near: {})", fmt::join(names, ", "));
}

std::string HubClient::other_revisions(const RepoName& name) const {
  const HttpResponse response =
      fetch(fmt::format("{}/api/models/{}/refs", settings_.endpoint, url_path(name.id)), {}, nullptr);
  if (response.status != 200) return "";
  std::vector<std::string> names;
  try {
    const Json refs = Json::parse(response.body, "the revisions");
    for (const char* kind : {"branches", "tags"})
      if (const Json* list = refs.find(kind))
        for (const Json& ref : list->items())
          if (names.size() < 10) names.push_back(ref.at("name").as_string());
  } catch (const UserError&) {
    return "";  // not a list of revisions
  }
  return names.empty() ? "" : fmt::format("; it has {}", fmt::join(names, ", "));
}

// A server's words stand in errors, and a server may repeat what it was sent.
template <class Work>
auto HubClient::without_token(Work&& work) const {
  try {
    return work();
  } catch (const UserError& error) {
    std::string text = error.what();
    const size_t size = settings_.token.size();
    if (size == 0 || text.find(settings_.token) == std::string::npos) throw;
    constexpr std::string_view kHidden = "***";
    for (size_t at = text.find(settings_.token); at != std::string::npos;
         at = text.find(settings_.token, at + kHidden.size()))
      text.replace(at, size, kHidden);
    throw UserError(text);
  }
}

RemoteRevision HubClient::revision(const RepoName& name) const {
  return without_token([&] { return list(name); });
}

void HubClient::read(const RepoName& name, const std::string& commit, const RemoteFile& file, uint64_t begin,
                     uint64_t end, const std::function<void(std::span<const std::byte>)>& receive,
                     FileAddress* address) const {
  without_token([&] { fetch_range(name, commit, file, begin, end, receive, address); });
}

RemoteRevision HubClient::list(const RepoName& name) const {
  const std::string models = fmt::format("{}/api/models/{}", settings_.endpoint, url_path(name.id));
  std::string revision = url_path(name.revision);
  for (size_t at = revision.find('/'); at != std::string::npos; at = revision.find('/'))
    revision.replace(at, 1, "%2F");
  const std::string info_url = fmt::format("{}/revision/{}", models, revision);
  RemoteRevision result;
  const Json info = Json::parse(api(name, info_url).body, info_url);
  result.commit = checked_etag(info.at("sha").as_string(), 40, info_url, "the commit");
  std::string url = fmt::format("{}/tree/{}?recursive=true&expand=false", models, result.commit);
  for (size_t page = 1;; ++page) {
    const HttpResponse response = api(name, url);
    const std::string where = url_for_message(url);
    VIADUCT_USER_CHECK(page <= kMostPages, "{}: the list of {}'s files has no end after {} pages", where, name.id,
                       kMostPages);
    const Json listing = Json::parse(response.body, where);
    for (const Json& entry : listing.items()) {
      if (entry.at("type").as_string() != "file") continue;
      RemoteFile file;
      file.path = entry.at("path").as_string();
      check_path(file.path, where);
      const Json* lfs = entry.find("lfs");
      file.is_lfs = lfs && lfs->is_object();
      const int64_t size = (file.is_lfs ? lfs->at("size") : entry.at("size")).as_int();
      VIADUCT_USER_CHECK(size >= 0, "{}: {} is said to have {} bytes", where, file.path, size);
      file.size = static_cast<uint64_t>(size);
      file.etag = file.is_lfs ? checked_etag(lfs->at("oid").as_string(), 64, where, file.path)
                              : checked_etag(entry.at("oid").as_string(), 40, where, file.path);
      result.files.push_back(std::move(file));
      VIADUCT_USER_CHECK(result.files.size() <= kMostFiles, "{} has more than {} files", name.id, kMostFiles);
    }
    const std::string next = next_page(response);
    if (next.empty()) break;
    VIADUCT_USER_CHECK(!listing.items().empty(), "{}: an empty page of the list names a next one", where);
    const std::string address = absolute_url(url, next);
    VIADUCT_USER_CHECK(origin_of(address) == origin_of(settings_.endpoint) && address != url,
                       "{}: the next page is said to be at {}", where, url_for_message(address));
    url = address;
  }
  return result;
}

}  // namespace viaduct::hub
