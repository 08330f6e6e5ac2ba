#include "viaduct/hub/stream.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/formats/safetensors.h"
#include "viaduct/hub/download.h"

namespace viaduct::hub {

namespace fs = std::filesystem;

namespace {

// Most headers come whole with the first request.
constexpr uint64_t kFirstBytes = 32u << 10;
// What is larger and no index is nothing that a conversion carries along.
constexpr uint64_t kSmallFile = 64u << 20;
constexpr size_t kConnections = 8;

bool is_safetensors(const RemoteFile& file) { return file.path.ends_with(".safetensors"); }
bool is_in_folder(const RemoteFile& file) { return file.path.find('/') != std::string::npos; }

// Times that say which content a stub stands for.
timespec time_of(const RemoteFile& file) {
  const uint64_t hash = xxh3_64(file.etag);
  constexpr int64_t kYear2001 = 978307200;
  timespec time{};
  time.tv_sec = kYear2001 + static_cast<int64_t>(hash >> 34);
  time.tv_nsec = static_cast<long>((hash & 0x3FFFFFFFF) % 1'000'000'000);
  return time;
}

bool is_there(const Path& stub, const RemoteFile& file) {
  struct stat status {};
  if (::stat(stub.c_str(), &status) != 0) return false;
  const timespec time = time_of(file);
  return static_cast<uint64_t>(status.st_size) == file.size && status.st_mtim.tv_sec == time.tv_sec &&
         status.st_mtim.tv_nsec == time.tv_nsec;
}

class StubMaker {
 public:
  StubMaker(const HubClient& client, const StreamedModel& model) : client_(client), model_(model) {}

  void make(const RemoteFile& file) const {
    const Path stub = model_.folder / file.path;
    if (is_there(stub, file)) return;
    const Path fresh = model_.folder / fmt::format(".{}.partial", file.path);
    const std::string header = fetch_header(file);
    formats::write_safetensors_stub(fresh, header, file.size);
    const timespec times[2] = {time_of(file), time_of(file)};
    if (::utimensat(AT_FDCWD, fresh.c_str(), times, 0) != 0)
      throw_system(fmt::format("cannot set the time of {}", fresh.string()));
    fs::rename(fresh, stub);
  }

 private:
  std::string fetch_header(const RemoteFile& file) const {
    FileAddress address;
    std::string text;
    const auto fetch = [&](uint64_t end) {
      client_.read(
          model_.name, model_.commit, file, text.size(), end,
          [&](std::span<const std::byte> bytes) {
            text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
          },
          &address);
    };
    const std::string origin = fmt::format("{} of {} at {}", file.path, model_.name.id, model_.commit);
    fetch(std::min(file.size, kFirstBytes));
    const uint64_t length = formats::safetensors_header_size(std::as_bytes(std::span(text)), file.size, origin);
    if (text.size() < 8 + length) fetch(8 + length);
    text = text.substr(8, length);
    (void)formats::parse_safetensors_header(text, file.size, origin);
    return text;
  }

  const HubClient& client_;
  const StreamedModel& model_;
};

void make_stubs(const HubClient& client, const StreamedModel& model) {
  const StubMaker stubs(client, model);
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto work = [&] {
    try {
      for (size_t i = next++; i < model.weights.size() && !failed; i = next++) stubs.make(model.weights[i]);
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
      failed = true;
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(model.weights.size(), kConnections); ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace

StreamedModel prepare_stream(const HubClient& client, const RepoName& name, Progress* progress) {
  VIADUCT_USER_CHECK(
      !client.settings().offline,
      "HF_HUB_OFFLINE is set: {} cannot be streamed. Unset it, or leave out --stream to take what was "
      "downloaded before",
      name.id);
  const RemoteRevision revision = client.revision(name);
  DownloadOptions options;
  options.model_files = true;
  options.progress = progress;
  StreamedModel model{name, revision.commit, {}, {}};
  std::vector<RemoteFile> small;
  std::string other;
  for (const RemoteFile& file : chosen_files(revision, options)) {
    const std::string end = Path(file.path).extension().string();
    if (is_safetensors(file)) {
      if (!is_in_folder(file)) model.weights.push_back(file);
    } else if (end == ".bin" || end == ".gguf" || end == ".pt" || end == ".pth") {
      if (other.empty()) other = file.path;
    } else if (file.size <= kSmallFile || file.path.ends_with(".index.json")) {
      small.push_back(file);
    }
  }
  VIADUCT_USER_CHECK(
      !model.weights.empty(),
      "{} at {} has no *.safetensors{}, and only these can be streamed. Fetch it with viaduct download "
      "{}, and leave out --stream",
      name.id, name.revision, other.empty() ? "" : fmt::format(" (but {})", other), name.id);
  const RepoCache cache(client.settings().cache, name.id);
  model.folder = cache.stream(revision.commit);
  fs::create_directories(model.folder);
  const auto stop = [progress] { return progress && progress->cancelled(); };
  const FileLock lock(cache.lock_file("viaduct-stream-" + revision.commit), stop);
  download_files(client, name, revision.commit, small, options);
  for (const RemoteFile& file : small) cache.link(model.folder, file.path, file.etag);
  make_stubs(client, model);
  return model;
}

}  // namespace viaduct::hub
