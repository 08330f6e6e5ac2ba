// What a server answers: a revision's files, all under safe names, and a range of the first of them, or a
// UserError. The input is cut at zero bytes into answers, each a status digit (2, 3, 4, or 6: 206), a header line
// and a body; the last one is given again and again.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/core/error.h"
#include "viaduct/hub/client.h"

namespace {

using namespace viaduct;

class Answers : public hub::Http {
 public:
  explicit Answers(std::string_view text) {
    for (size_t at = 0; at <= text.size();) {
      const size_t end = std::min(text.find('\0', at), text.size());
      answers_.emplace_back(text.substr(at, end - at));
      at = end + 1;
    }
  }

  hub::HttpResponse get(const hub::HttpRequest& request, const hub::Receive& receive,
                        const std::function<bool()>&) override {
    VIADUCT_CHECK(++asked_ < 200'000, "no end of requests");
    VIADUCT_CHECK(request.url.starts_with("https://"), "{}", request.url);
    for (const std::string& header : request.headers)
      VIADUCT_CHECK(!header.starts_with("Authorization") || hub::origin_of(request.url) == "https://hub.test", "{}",
                    request.url);
    const std::string_view answer = answers_[std::min(next_++, answers_.size() - 1)];
    hub::HttpResponse response;
    response.status = answer.starts_with("3")   ? 302
                      : answer.starts_with("4") ? 404
                      : answer.starts_with("6") ? 206
                                                : 200;
    const std::string_view rest = answer.substr(std::min<size_t>(1, answer.size()));
    const size_t line = std::min(rest.find('\n'), rest.size());
    const size_t colon = rest.substr(0, line).find(':');
    if (colon != std::string_view::npos)
      response.headers[std::string(rest.substr(0, colon))] = rest.substr(colon + 1, line - colon - 1);
    response.body = rest.substr(std::min(line + 1, rest.size()));
    if (receive && response.status < 300) {
      is_short = request.range && response.body.size() < request.range->second - request.range->first;
      (void)receive(response.status, std::as_bytes(std::span(response.body)));
    }
    return response;
  }

  bool is_short = false;  // the last answer gave less than was asked for: it would be waited for the rest

 private:
  std::vector<std::string_view> answers_;
  size_t next_ = 0, asked_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Answers answers({reinterpret_cast<const char*>(data), size});
  hub::HubSettings settings;
  settings.endpoint = "https://hub.test";
  settings.token = "hf_token";
  try {
    const hub::HubClient client(settings, answers, [&] { return answers.is_short; });
    const hub::RemoteRevision revision = client.revision(*hub::parse_repo_name("org/model@main"));
    for (const hub::RemoteFile& file : revision.files) {
      const Path path = std::filesystem::path("/snapshot") / file.path;
      VIADUCT_CHECK(path.lexically_normal().string().starts_with("/snapshot/"), "{}", file.path);
      VIADUCT_CHECK(file.etag.find('/') == std::string::npos);
    }
    if (revision.files.empty() || revision.files[0].size < 3) return 0;
    hub::FileAddress address;
    size_t size = 0;
    client.read(
        *hub::parse_repo_name("org/model"), revision.commit, revision.files[0], 1, 3,
        [&](std::span<const std::byte> bytes) { size += bytes.size(); }, &address);
    VIADUCT_CHECK_EQ(size, size_t{2}, "the range");
  } catch (const Interrupted&) {
    // The rest of a short answer is not waited for.
  } catch (const UserError& error) {
    VIADUCT_CHECK(std::string(error.what()).find("hf_token") == std::string::npos, "{}", error.what());
  }
  return 0;
}
