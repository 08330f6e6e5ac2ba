#include "viaduct/hub/download.h"

#include <fcntl.h>
#include <fnmatch.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

#include "viaduct/core/error.h"
#include "viaduct/core/sha.h"
#include "viaduct/core/strings.h"

namespace viaduct::hub {

namespace fs = std::filesystem;

bool matches_pattern(const std::string& pattern, const std::string& name) {
  return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

namespace {

// What is marked as there when it has come, and how many of them are asked for at a time.
constexpr uint64_t kPart = 2u << 20;
constexpr size_t kPartsAtATime = 8;

// Weights in forms that are not read where there are safetensors.
bool is_other_form(const std::string& path, bool has_safetensors) {
  const Path name = path;
  const std::string end = name.extension().string(), file = name.filename().string();
  if (end == ".h5" || end == ".msgpack" || end == ".onnx" || end == ".ot" || end == ".tflite" ||
      end == ".onnx_data")
    return true;
  if (path.starts_with("original/") || path.starts_with("onnx/") || path.starts_with("metal/")) return true;
  if (!has_safetensors) return false;
  if (end == ".bin" || end == ".pt" || end == ".pth" || end == ".gguf") return true;
  // Mistral's own file beside transformers' shards.
  return file.starts_with("consolidated") && end == ".safetensors";
}

}  // namespace

std::vector<RemoteFile> chosen_files(const RemoteRevision& revision, const DownloadOptions& options) {
  const bool has_safetensors =
      std::any_of(revision.files.begin(), revision.files.end(), [](const RemoteFile& file) {
        return file.path.ends_with(".safetensors") && file.path.find('/') == std::string::npos &&
               !file.path.starts_with("consolidated");
      });
  const auto any = [](const std::vector<std::string>& patterns, const std::string& path) {
    return std::any_of(patterns.begin(), patterns.end(),
                       [&](const std::string& p) { return matches_pattern(p, path); });
  };
  std::vector<RemoteFile> files;
  for (const RemoteFile& file : revision.files) {
    if (!options.include.empty() && !any(options.include, file.path)) continue;
    if (any(options.exclude, file.path)) continue;
    if (options.model_files && is_other_form(file.path, has_safetensors)) continue;
    files.push_back(file);
  }
  return files;
}

namespace {

// A file that is being fetched: its parts, which of them are there, and the hash of those from the beginning on.
class Partial {
 public:
  Partial(const Path& blob, const RemoteFile& file)
      : data_(blob.string() + ".viaduct.incomplete"), list_(list_of(blob)), file_(file) {
    done_.resize(static_cast<size_t>((file.size + kPart - 1) / kPart));
    read_list();
    out_ = File::open(data_, File::Mode::kWrite);
    out_.resize(file.size);
    in_ = File::open(data_, File::Mode::kRead);
    marks_ = File::open(list_, File::Mode::kWrite);
  }

  size_t parts() const { return done_.size(); }
  /// The next parts [first, last) that are missing and that nobody has taken; empty when there are no more.
  std::pair<size_t, size_t> take() {
    const std::lock_guard lock(mutex_);
    while (taken_ < done_.size() && done_[taken_]) ++taken_;
    const size_t first = taken_;
    while (taken_ < done_.size() && !done_[taken_] && taken_ - first < kPartsAtATime) ++taken_;
    return {first, taken_};
  }
  uint64_t begin(size_t part) const { return part * kPart; }
  uint64_t end(size_t part) const { return std::min(file_.size, (part + 1) * kPart); }
  void write(uint64_t offset, std::span<const std::byte> bytes) { out_.write(offset, bytes); }

  /// A part has come. Whoever brings the next one in order takes the hash on.
  void finish(size_t part) {
    {
      const std::lock_guard lock(mutex_);
      done_[part] = true;
      const std::string line = fmt::format("{}\n", part);
      marks_.write(marks_size_, std::as_bytes(std::span(line)));
      marks_size_ += line.size();
    }
    // The disk begins at once, so that keeping the file need not wait for all of it.
    ::sync_file_range(out_.fd(), static_cast<off64_t>(begin(part)), static_cast<off64_t>(end(part) - begin(part)),
                      SYNC_FILE_RANGE_WRITE);
    advance_hash(false);
  }

  /// After all parts: the hash of the whole.
  std::string hash() {
    advance_hash(true);
    return sha256_.hex();
  }

  void keep(const Path& blob) {
    out_.sync();
    out_.close();
    fs::rename(data_, blob);
    fs::remove(list_);
  }
  void discard() {
    fs::remove(data_);
    fs::remove(list_);
  }
  /// Removes what a run leaves that is killed once the file is in its place.
  static void clear_left(const Path& blob) { fs::remove(list_of(blob)); }

 private:
  static Path list_of(const Path& blob) { return blob.string() + ".viaduct.parts"; }
  void read_list() {
    if (!fs::exists(data_) || !fs::exists(list_) || fs::file_size(data_) != file_.size) {
      fs::remove(data_);
      fs::remove(list_);
      return;
    }
    const std::string text = read_text_file(list_, 64u << 20);
    // A line that was cut off by the end of its process counts no more.
    for (size_t at = 0; at < text.size();) {
      const size_t stop = text.find('\n', at);
      if (stop == std::string::npos) break;
      size_t part = 0;
      const auto [end, error] = std::from_chars(text.data() + at, text.data() + stop, part);
      if (error == std::errc() && end == text.data() + stop && part < done_.size()) done_[part] = true;
      marks_size_ = at = stop + 1;
    }
  }

  void advance_hash(bool wait) {
    std::unique_lock hashing(hash_mutex_, std::defer_lock);
    if (wait) {
      hashing.lock();
    } else if (!hashing.try_lock()) {
      return;
    }
    std::vector<std::byte> buffer(1u << 20);
    while (true) {
      {
        const std::lock_guard lock(mutex_);
        if (hashed_ >= done_.size() || !done_[hashed_]) return;
      }
      for (uint64_t at = begin(hashed_); at < end(hashed_);) {
        const std::span<std::byte> run =
            std::span(buffer).first(static_cast<size_t>(std::min<uint64_t>(buffer.size(), end(hashed_) - at)));
        in_.read(at, run);
        sha256_.add(run);
        at += run.size();
      }
      ++hashed_;
    }
  }

  Path data_, list_;
  RemoteFile file_;
  File out_, in_, marks_;
  uint64_t marks_size_ = 0;
  size_t taken_ = 0;
  std::vector<bool> done_;
  std::mutex mutex_, hash_mutex_;
  Sha256 sha256_;
  size_t hashed_ = 0;
};

std::string git_hash(std::span<const std::byte> content) {
  Sha1 hash;
  const std::string head = fmt::format("blob {}", content.size());
  hash.add(std::as_bytes(std::span(head.c_str(), head.size() + 1)));
  hash.add(content);
  return hash.hex();
}

[[noreturn]] void refuse_hash(const RepoName& name, const RemoteFile& file, const std::string& found) {
  throw UserError(
      fmt::format("{} of {} came with other bytes than the hub says: hash {}, expected {}. Nothing of it was "
                  "kept; try again, and if it happens again something between here and the hub changes files",
                  file.path, name.id, found, file.etag));
}

class Downloader {
 public:
  Downloader(const HubClient& client, const RepoName& name, const std::string& commit, const RepoCache& cache,
             const DownloadOptions& options)
      : client_(client), name_(name), commit_(commit), cache_(cache), options_(options) {}

  uint64_t bytes() const { return bytes_; }

  void fetch(const RemoteFile& file) {
    const Path blob = cache_.blob(file.etag);
    const auto stop = [this] { return options_.progress && options_.progress->cancelled(); };
    if (!is_there(blob, file)) {
      const FileLock lock(cache_.lock_file(file.etag), stop);
      if (!is_there(blob, file)) file.is_lfs ? fetch_parts(file, blob) : fetch_small(file, blob);
    }
    Partial::clear_left(blob);
    cache_.link(cache_.snapshot(commit_), file.path, file.etag);
  }

  bool is_there(const Path& blob, const RemoteFile& file) const {
    std::error_code error;
    return fs::file_size(blob, error) == file.size && !error;
  }

 private:
  void advance(uint64_t bytes) {
    bytes_ += bytes;
    if (options_.progress) options_.progress->advance(bytes);
  }

  void fetch_small(const RemoteFile& file, const Path& blob) {
    VIADUCT_USER_CHECK(file.size <= (256u << 20), "{}: {} has {} and no SHA-256", name_.id, file.path,
                       human_bytes(file.size));
    std::string content;
    client_.read(name_, commit_, file, 0, file.size, [&](std::span<const std::byte> bytes) {
      content.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      advance(bytes.size());
    });
    if (const std::string hash = git_hash(std::as_bytes(std::span(content))); hash != file.etag)
      refuse_hash(name_, file, hash);
    fs::create_directories(blob.parent_path());
    write_file_atomically(blob, content);
  }

  void fetch_parts(const RemoteFile& file, const Path& blob) {
    fs::create_directories(blob.parent_path());
    Partial partial(blob, file);
    std::atomic<bool> failed{false};
    std::exception_ptr error;
    std::mutex error_mutex;
    const auto work = [&] {
      try {
        while (!failed) {
          const auto [first, last] = partial.take();
          if (first == last) return;
          uint64_t at = partial.begin(first);
          size_t part = first;
          client_.read(name_, commit_, file, at, partial.end(last - 1), [&](std::span<const std::byte> bytes) {
            partial.write(at, bytes);
            at += bytes.size();
            advance(bytes.size());
            for (; part < last && partial.end(part) <= at; ++part) partial.finish(part);
            if (failed) throw Interrupted("interrupted");
          });
        }
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        failed = true;
      }
    };
    std::vector<std::thread> threads;
    const size_t count = std::clamp<size_t>(partial.parts() / kPartsAtATime, 1,
                                            static_cast<size_t>(std::max(1, options_.connections)));
    for (size_t i = 1; i < count; ++i) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
    if (error) std::rethrow_exception(error);
    if (const std::string hash = partial.hash(); hash != file.etag) {
      partial.discard();
      refuse_hash(name_, file, hash);
    }
    partial.keep(blob);
  }

  const HubClient& client_;
  const RepoName& name_;
  const std::string& commit_;
  const RepoCache& cache_;
  const DownloadOptions& options_;
  std::atomic<uint64_t> bytes_{0};
};

}  // namespace

DownloadReport download_files(const HubClient& client, const RepoName& name, const std::string& commit,
                              const std::vector<RemoteFile>& files, const DownloadOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const RepoCache cache(client.settings().cache, name.id);
  Downloader downloader(client, name, commit, cache, options);
  uint64_t missing = 0;
  for (const RemoteFile& file : files)
    if (!downloader.is_there(cache.blob(file.etag), file)) missing += file.size;
  if (missing > 0) {
    const uint64_t free = free_space(client.settings().cache);
    VIADUCT_USER_CHECK(free > missing,
                       "{} has {} free, and {} are missing of {}. Make room, or set HF_HOME to another disk",
                       client.settings().cache.string(), human_bytes(free), human_bytes(missing), name.id);
  }
  if (options.progress) options.progress->begin("downloading", missing);
  for (const RemoteFile& file : files) downloader.fetch(file);
  if (options.progress) options.progress->end();
  DownloadReport report;
  report.snapshot = cache.snapshot(commit);
  report.commit = commit;
  report.files = files.size();
  report.bytes = downloader.bytes();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

DownloadReport download(const HubClient& client, const RepoName& name, const DownloadOptions& options) {
  VIADUCT_USER_CHECK(!client.settings().offline,
                     "HF_HUB_OFFLINE is set: nothing can be downloaded. Unset it to fetch {}", name.id);
  const RemoteRevision revision = client.revision(name);
  const std::vector<RemoteFile> files = chosen_files(revision, options);
  VIADUCT_USER_CHECK(
      !files.empty(), "{} at {} has no file that {}", name.id, name.revision,
      options.include.empty() && options.exclude.empty() ? "is not hidden" : "the patterns let through");
  const DownloadReport report = download_files(client, name, revision.commit, files, options);
  // Last: an offline reader that follows it finds everything.
  RepoCache(client.settings().cache, name.id).set_ref(name.revision, revision.commit);
  return report;
}

ResolvedModel resolve_model(const std::string& text, Progress* progress, const std::vector<std::string>& include) {
  std::error_code error;
  if (fs::exists(text, error)) return {text, "", ""};
  const std::optional<RepoName> name = parse_repo_name(text);
  // "name" alone is nearly always a folder that was mistyped.
  if (!name || name->id.find('/') == std::string::npos) return {text, "", ""};
  const HubSettings settings = HubSettings::from_environment();
  const RepoCache cache(settings.cache, name->id);
  const auto cached = [&]() -> std::optional<ResolvedModel> {
    const std::optional<std::string> commit = cache.commit_of(name->revision);
    if (!commit || !fs::is_directory(cache.snapshot(*commit))) return std::nullopt;
    return ResolvedModel{cache.snapshot(*commit), name->id, *commit};
  };
  if (settings.offline) {
    const std::optional<ResolvedModel> snapshot = cached();
    VIADUCT_USER_CHECK(
        snapshot,
        "there is no folder {0}, and of the hub's {0} nothing is in {1} (HF_HUB_OFFLINE is set, so it was "
        "not asked for)",
        text, cache.root().string());
    return *snapshot;
  }
  try {
    const HubClient client(settings, curl_http(), [progress] { return progress && progress->cancelled(); });
    DownloadOptions options;
    options.include = include;
    options.model_files = include.empty();
    options.progress = progress;
    const DownloadReport report = download(client, *name, options);
    return {report.snapshot, name->id, report.commit};
  } catch (const HubClient::Unreachable& unreachable) {
    if (const std::optional<ResolvedModel> snapshot = cached()) return *snapshot;
    throw UserError(fmt::format("there is no folder {}, and as a model of the hub it cannot be fetched: {}", text,
                                unreachable.what()));
  } catch (const UserError& refused) {
    throw UserError(fmt::format("there is no folder {}, and as a model of the hub: {}", text, refused.what()));
  }
}

}  // namespace viaduct::hub
