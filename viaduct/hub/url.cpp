#include <algorithm>
#include <cctype>

#include "viaduct/hub/http.h"

namespace viaduct::hub {

std::string url_for_message(const std::string& url) { return url.substr(0, url.find_first_of("?#")); }

std::string origin_of(const std::string& url) {
  const size_t host = url.find("://");
  if (host == std::string::npos) return {};
  std::string origin = url.substr(0, url.find_first_of("/?#", host + 3));
  // A name and a password in front of the host are no part of it.
  if (const size_t at = origin.rfind('@'); at != std::string::npos && at > host)
    origin = origin.substr(0, host + 3) + origin.substr(at + 1);
  std::transform(origin.begin(), origin.end(), origin.begin(), [](unsigned char c) { return std::tolower(c); });
  return origin;
}

std::string absolute_url(const std::string& url, std::string location) {
  if (const size_t scheme = location.find("://"); scheme != std::string::npos) {
    // Who asks whether an address is encrypted compares with "https".
    const auto end = location.begin() + static_cast<std::ptrdiff_t>(scheme);
    std::transform(location.begin(), end, location.begin(), [](unsigned char c) { return std::tolower(c); });
    return location;
  }
  const size_t scheme = url.find("://");
  const std::string root = url.substr(0, url.find_first_of("/?#", scheme + 3));
  if (location.starts_with("//")) return url.substr(0, scheme + 1) + location;
  if (location.starts_with("/")) return root + location;
  const std::string path = url_for_message(url);
  return path.substr(0, path.rfind('/') + 1) + location;
}

std::string url_path(std::string_view text) {
  constexpr std::string_view kPlain = "-._~/";
  std::string result;
  for (const unsigned char c : text) {
    if (std::isalnum(c) || kPlain.find(static_cast<char>(c)) != std::string_view::npos) {
      result += static_cast<char>(c);
    } else {
      constexpr char kDigits[] = "0123456789ABCDEF";
      result += {'%', kDigits[c >> 4], kDigits[c & 15]};
    }
  }
  return result;
}

}  // namespace viaduct::hub
