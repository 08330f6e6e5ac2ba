// Bytes of a file of the hub: redirects that are remembered, breaks that are mended, and what the answers say of
// the file compared with what its listing says.
#include <algorithm>
#include <charconv>
#include <optional>

#include "viaduct/hub/client.h"

namespace viaduct::hub {

std::string FileAddress::url() const {
  const std::lock_guard lock(mutex_);
  return url_;
}

void FileAddress::set(const std::string& url) {
  const std::lock_guard lock(mutex_);
  url_ = url;
}

void FileAddress::forget(const std::string& url) {
  const std::lock_guard lock(mutex_);
  if (url_ == url) url_.clear();
}

std::string FileAddress::first_mark(const std::string& url, const std::string& mark) {
  const std::lock_guard lock(mutex_);
  // Another server has its own marks.
  if (const std::string origin = origin_of(url); marked_origin_ != origin) {
    marked_origin_ = origin;
    mark_ = mark;
  }
  return mark_;
}

namespace {

struct Range {
  uint64_t begin = 0;
  std::optional<uint64_t> total;
};

// "bytes 0-99/1000"; nullopt for anything else.
std::optional<Range> parse_content_range(std::string_view text) {
  constexpr std::string_view kUnit = "bytes ";
  if (!text.starts_with(kUnit)) return std::nullopt;
  const char* const end = text.data() + text.size();
  Range range;
  const auto [dash, error] = std::from_chars(text.data() + kUnit.size(), end, range.begin);
  const size_t slash = text.find('/');
  if (error != std::errc() || dash == end || *dash != '-' || slash == std::string_view::npos) return std::nullopt;
  uint64_t total = 0;
  const auto [stop, no_total] = std::from_chars(text.data() + slash + 1, end, total);
  if (no_total == std::errc() && stop == end) range.total = total;
  return range;
}

// W/"abc" -> abc
std::string plain_mark(std::string mark) {
  if (mark.starts_with("W/")) mark.erase(0, 2);
  std::erase(mark, '"');
  return mark;
}

// Is this the hash of a file, and not some server's own mark?
bool is_hash(const std::string& mark, size_t digits) {
  return mark.size() == digits && mark.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

// Everything that an answer with bytes from `begin` on says of the file.
void HubClient::check_file(const RepoName& name, const std::string& commit, const RemoteFile& file,
                           const HttpResponse& response, const Route& route, uint64_t begin,
                           FileAddress* address) const {
  const auto differs = [&](const std::string& what, const std::string& found, const std::string& expected) {
    throw Changed(fmt::format(
        "{} of {} at {} is not what the hub lists: {} {}, expected {}. It was replaced, or something between here "
        "and the hub changes files; try again, and if it happens again use viaduct download",
        file.path, name.id, commit, what, found, expected));
  };
  const auto said_by_hub = [&](const char* header) {
    const auto it = route.hub_headers.find(header);
    return it == route.hub_headers.end() ? std::string() : it->second;
  };
  const bool from_hub = origin_of(route.url) == origin_of(settings_.endpoint);
  std::string hash = plain_mark(said_by_hub("x-linked-etag"));
  if (hash.empty() && from_hub) hash = plain_mark(said_by_hub("etag"));
  if (is_hash(hash, file.etag.size()) && hash != file.etag) differs("hash", hash, file.etag);
  const auto differs_in_size = [&](const std::string& size) {
    if (!size.empty() && size != std::to_string(file.size)) differs("size", size, std::to_string(file.size));
  };
  differs_in_size(said_by_hub("x-linked-size"));
  if (const std::string at = said_by_hub("x-repo-commit"); is_commit(at) && at != commit)
    differs("commit", at, commit);
  const std::string range_text = response.header("content-range");
  const std::optional<Range> range = parse_content_range(range_text);
  if (response.status == 206 && range) {
    if (range->begin != begin) differs("range", range_text, fmt::format("bytes from {} on", begin));
    if (range->total) differs_in_size(std::to_string(*range->total));
  } else if (response.status == 206 && address) {
    differs("range", fmt::format("\"{}\"", range_text), fmt::format("bytes from {} on", begin));
  } else if (response.status == 200) {
    differs_in_size(response.header("content-length"));
  }
  if (response.status == 416) differs("size", fmt::format("\"{}\"", range_text), std::to_string(file.size));
  const std::string mark = plain_mark(response.header("etag"));
  if (!address || from_hub || mark.empty()) return;
  if (const std::string first = address->first_mark(route.url, mark); first != mark) differs("ETag", mark, first);
}

void HubClient::fetch_range(const RepoName& name, const std::string& commit, const RemoteFile& file, uint64_t begin,
                            uint64_t end, const std::function<void(std::span<const std::byte>)>& receive,
                            FileAddress* address) const {
  const std::string hub_url =
      fmt::format("{}/{}/resolve/{}/{}", settings_.endpoint, url_path(name.id), commit, url_path(file.path));
  uint64_t at = begin;
  int attempt = 0;
  while (at < end) {
    const std::string known = address ? address->url() : "";
    const std::string url = known.empty() ? hub_url : known;
    HttpRequest request;
    request.headers = {"Accept-Encoding: identity"};
    const bool whole = at == 0 && end == file.size;
    if (!whole) request.range = {at, end};
    const uint64_t before = at;
    // A server without ranges gives the whole file: what is in front is passed over. One that gives more is
    // stopped; one that gives just enough keeps its connection.
    std::optional<uint64_t> skip;
    bool more = false;
    Route route;
    const auto take = [&](int status, std::span<const std::byte> bytes) {
      if (address && status == 200 && !whole) return false;
      if (!skip) skip = status == 206 ? 0 : before;
      const auto passed = static_cast<size_t>(std::min<uint64_t>(*skip, bytes.size()));
      *skip -= passed;
      bytes = bytes.subspan(passed);
      more = bytes.size() > end - at;
      if (more) bytes = bytes.first(static_cast<size_t>(end - at));
      if (!bytes.empty()) receive(bytes);
      at += bytes.size();
      return !more;
    };
    const HttpResponse response = fetch(url, request, take, &route);
    const bool good = response.status == 200 || response.status == 206;
    if (good || response.status == 416) check_file(name, commit, file, response, route, before, address);
    if (good && address) {
      VIADUCT_USER_CHECK(whole || response.status == 206,
                         "{} gives no ranges of {}, only whole files: it cannot be streamed. Fetch it with viaduct "
                         "download {}",
                         origin_of(route.url), file.path, name.id);
      if (route.url != hub_url) address->set(route.url);
    }
    if (at >= end) return;
    if (at > before) attempt = 0;  // it goes on, if in pieces
    // The signature's time may be over, or that server be down: the hub is asked again.
    if (!known.empty()) {
      address->forget(known);
      if (!good && !response.may_help_again()) continue;
    } else if (address) {
      address->forget(route.url);
    }
    if ((good || response.may_help_again()) && attempt + 1 < kHubTries) {
      pause(attempt++, response);
      continue;
    }
    if (good)
      throw UserError(
          fmt::format("{} ends after {} of {} bytes, again and again", url_for_message(route.url), at, file.size));
    refuse(name, response, route.url);
  }
}

}  // namespace viaduct::hub
