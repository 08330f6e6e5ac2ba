#include "viaduct/hub/cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "viaduct/core/error.h"

namespace viaduct::hub {

namespace fs = std::filesystem;

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

Path expand_home(const std::string& text) {
  if (text != "~" && !text.starts_with("~/")) return text;
  return Path(variable("HOME")) / text.substr(std::min<size_t>(2, text.size()));
}

bool is_true(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(), [](unsigned char c) { return std::toupper(c); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

std::string stripped(std::string text) {
  const auto space = [](unsigned char c) { return std::isspace(c); };
  text.erase(std::find_if_not(text.rbegin(), text.rend(), space).base(), text.end());
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), space));
  return text;
}

}  // namespace

bool is_commit(std::string_view revision) {
  return revision.size() == 40 && revision.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::optional<RepoName> parse_repo_name(const std::string& text) {
  RepoName name;
  const size_t at = text.find('@');
  name.id = text.substr(0, at);
  if (at != std::string::npos) {
    name.revision = text.substr(at + 1);
    name.given = true;
  }
  const auto is_word = [](std::string_view word) {
    return !word.empty() && word.size() <= 96 && word.front() != '-' && word.front() != '.' && word.back() != '-' &&
           word.back() != '.' && word.find("..") == std::string_view::npos &&
           word.find("--") == std::string_view::npos && std::all_of(word.begin(), word.end(), [](unsigned char c) {
             return std::isalnum(c) || c == '-' || c == '_' || c == '.';
           });
  };
  const size_t slash = name.id.find('/');
  const bool words = slash == std::string::npos
                         ? is_word(name.id)
                         : is_word(name.id.substr(0, slash)) && is_word(name.id.substr(slash + 1));
  const bool revision =
      !name.revision.empty() && name.revision.size() <= 200 && name.revision.find("..") == std::string::npos &&
      name.revision.front() != '/' && name.revision.back() != '/' &&
      std::all_of(name.revision.begin(), name.revision.end(),
                  [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == '/'; });
  if (!words || !revision) return std::nullopt;
  return name;
}

HubSettings HubSettings::from_environment() {
  HubSettings settings;
  Path home = expand_home(variable("HF_HOME"));
  if (home.empty()) {
    const std::string cache = variable("XDG_CACHE_HOME");
    home = (cache.empty() ? expand_home("~/.cache") : expand_home(cache)) / "huggingface";
  }
  settings.cache = expand_home(variable("HF_HUB_CACHE"));
  if (settings.cache.empty()) settings.cache = expand_home(variable("HUGGINGFACE_HUB_CACHE"));
  if (settings.cache.empty()) settings.cache = home / "hub";
  settings.token_file = expand_home(variable("HF_TOKEN_PATH"));
  if (settings.token_file.empty()) settings.token_file = home / "token";
  settings.endpoint = variable("HF_ENDPOINT");
  if (settings.endpoint.empty()) settings.endpoint = "https://huggingface.co";
  while (settings.endpoint.ends_with("/")) settings.endpoint.pop_back();
  settings.offline = is_true(variable("HF_HUB_OFFLINE")) || is_true(variable("TRANSFORMERS_OFFLINE"));
  settings.token = stripped(variable("HF_TOKEN"));
  if (settings.token.empty()) settings.token = stripped(variable("HUGGING_FACE_HUB_TOKEN"));
  if (settings.token.empty() && !is_true(variable("HF_HUB_DISABLE_IMPLICIT_TOKEN")) &&
      fs::exists(settings.token_file))
    settings.token = stripped(read_text_file(settings.token_file, 64u << 10));
  // It goes into a header line.
  VIADUCT_USER_CHECK(
      std::all_of(settings.token.begin(), settings.token.end(), [](unsigned char c) { return c > ' ' && c < 127; }),
      "the hub's token (HF_TOKEN, or the file {}) has characters that no token has", settings.token_file.string());
  return settings;
}

RepoCache::RepoCache(const Path& cache, const std::string& repo_id) {
  std::string folder = "models--" + repo_id;
  if (const size_t slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
  root_ = cache / folder;
  locks_ = cache / ".locks" / folder;
}

std::optional<std::string> RepoCache::commit_of(const std::string& revision) const {
  if (is_commit(revision)) return revision;
  const Path ref = root_ / "refs" / revision;
  if (!fs::is_regular_file(ref)) return std::nullopt;
  std::string commit = stripped(read_text_file(ref, 4096));
  if (!is_commit(commit)) return std::nullopt;
  return commit;
}

void RepoCache::set_ref(const std::string& revision, const std::string& commit) const {
  if (is_commit(revision)) return;
  const Path ref = root_ / "refs" / revision;
  fs::create_directories(ref.parent_path());
  write_file_atomically(ref, commit);
}

void RepoCache::link(const Path& folder, const std::string& file, const std::string& etag) const {
  const Path at = folder / file;
  fs::create_directories(at.parent_path());
  const Path target = blob(etag).lexically_relative(at.parent_path());
  std::error_code error;
  if (fs::read_symlink(at, error) == target) return;
  // Under another name first: the link is there or not, and never points elsewhere.
  const Path fresh = at.parent_path() / fmt::format(".{}.{}", at.filename().string(), ::getpid());
  fs::remove(fresh, error);
  fs::create_symlink(target, fresh);
  fs::rename(fresh, at);
}

FileLock::FileLock(const Path& path, const std::function<bool()>& stop) {
  fs::create_directories(path.parent_path());
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) throw_system(fmt::format("cannot open {}", path.string()));
  while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const int error_number = errno;
    if (error_number != EWOULDBLOCK && error_number != EINTR) {
      ::close(fd_);
      throw_system(fmt::format("cannot lock {}", path.string()), error_number);
    }
    if (stop && stop()) {
      ::close(fd_);
      throw Interrupted("interrupted");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

FileLock::~FileLock() { ::close(fd_); }

void save_token(const HubSettings& settings, const std::string& token) {
  fs::create_directories(settings.token_file.parent_path());
  const Path fresh = settings.token_file.parent_path() / fmt::format(".token.{}", ::getpid());
  // Nobody else may read it, not even for a moment.
  const int fd = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) throw_system(fmt::format("cannot write {}", fresh.string()));
  const bool written =
      ::write(fd, token.data(), token.size()) == static_cast<ssize_t>(token.size()) && ::fsync(fd) == 0;
  ::close(fd);
  if (!written) {
    fs::remove(fresh);
    throw UserError(fmt::format("cannot write {}", fresh.string()));
  }
  fs::rename(fresh, settings.token_file);
}

}  // namespace viaduct::hub
