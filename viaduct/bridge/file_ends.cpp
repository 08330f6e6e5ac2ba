// Files as the executor's ends: direct IO for large aligned runs, the page cache for the rest.
#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>

#include "viaduct/bridge/edge_buffer.h"
#include "viaduct/bridge/executor.h"
#include "viaduct/bridge/open_files.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;

namespace {

constexpr uint64_t kPage = 4096;

// What tells that a file is still the same.
struct FileState {
  uint64_t size = 0;
  int64_t changed_s = 0, changed_ns = 0;
  friend bool operator==(const FileState&, const FileState&) = default;
};

FileState state_of(const Path& path) {
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) throw_system(fmt::format("cannot read the size of {}", path.string()));
  return {static_cast<uint64_t>(status.st_size), status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
}

class FileSource : public ByteSource {
 public:
  explicit FileSource(const std::vector<Path>& paths)
      : direct_(paths, File::Mode::kReadDirect), plain_(paths, File::Mode::kRead) {
    for (const Path& path : paths) states_.push_back(state_of(path));
  }

  uint64_t size(uint32_t file) const override { return states_.at(file).size; }

  size_t read(uint32_t file, uint64_t offset, std::span<std::byte> to) override {
    if (!direct_refused_) {
      const auto source = direct_.get(file);
      try {
        return source->read_some(offset, to);
      } catch (const SystemError& error) {
        // Some file systems take O_DIRECT at opening and refuse it at reading.
        if (!source->is_direct() || error.error_number() != EINVAL) throw;
        direct_refused_ = true;
      }
    }
    return plain_.get(file)->read_some(offset, to);
  }

  void finish() override {
    for (uint32_t file = 0; file < states_.size(); ++file)
      VIADUCT_USER_CHECK(state_of(direct_.path(file)) == states_[file],
                         "{} was changed while it was read; nothing of what was made of it is kept",
                         direct_.path(file).string());
  }

 private:
  OpenFiles direct_, plain_;
  std::vector<FileState> states_;
  std::atomic<bool> direct_refused_{false};
};

bool is_full(int error_number) { return error_number == ENOSPC || error_number == EDQUOT; }

class FileSink : public ByteSink {
 public:
  FileSink(const Path& directory, const std::vector<formats::TargetFile>& files, const std::vector<bool>& only)
      : directory_(directory),
        direct_(paths_of(directory, files), File::Mode::kWriteDirect),
        plain_(paths_of(directory, files), File::Mode::kWrite),
        edges_([this](uint32_t file, uint64_t offset, std::span<const std::byte> bytes) {
          plain_.get(file)->write(offset, bytes);
        }) {
    for (uint32_t i = 0; i < files.size(); ++i)
      if (only.empty() || only[i]) made_.push_back(i);
    for (const uint32_t file : made_) total_ += files[file].size;
    free_at_start_ = free_space(directory);
    naming_space([&] {
      for (const uint32_t i : made_) {
        std::error_code error;
        fs::create_directories(plain_.path(i).parent_path(), error);
        if (error)
          throw_system(fmt::format("cannot create the folder of {}", plain_.path(i).string()), error.value());
        reserve(*plain_.get(i), files[i].size);
      }
    });
  }

  void write(uint32_t file, uint64_t offset, std::span<const std::byte> from) override {
    naming_space([&] {
      // Pages that lie wholly inside this range belong to it alone; those at its edges may be shared with others.
      const uint64_t end = offset + from.size();
      const uint64_t first = (offset + kPage - 1) / kPage * kPage, last = end / kPage * kPage;
      if (from.size() < kDirectBytes) return edges_.add(file, offset, from);
      const std::span<const std::byte> middle = from.subspan(first - offset, last - first);
      if (!write_direct(file, first, middle)) plain_.get(file)->write(first, middle);
      if (first > offset) edges_.add(file, offset, from.first(first - offset));
      if (last < end) edges_.add(file, last, from.subspan(last - offset));
    });
  }

  void finish() override {
    naming_space([&] {
      edges_.flush();
      for (const uint32_t file : made_) plain_.get(file)->sync();
    });
  }

 private:
  static constexpr size_t kDirectBytes = 64u << 10;  // below this the page cache is quicker
  static_assert(kDirectBytes <= EdgeBuffer::kBytes);

  static std::vector<Path> paths_of(const Path& directory, const std::vector<formats::TargetFile>& files) {
    std::vector<Path> paths;
    for (const formats::TargetFile& file : files) paths.push_back(directory / file.name);
    return paths;
  }

  // Gives the file its size and, where the file system can, its place on the disk: a disk too small is found out
  // before anything is moved, and blocks that exist can be written by several threads at once.
  static void reserve(const File& file, uint64_t size) {
    file.resize(size);
    if (size == 0) return;
    int result;
    do {
      result = ::fallocate(file.fd(), 0, 0, static_cast<off_t>(size));
    } while (result != 0 && errno == EINTR);
    if (result != 0 && is_full(errno))
      throw_system(fmt::format("cannot reserve {} for {}", human_bytes(size), file.path().string()));
  }

  bool write_direct(uint32_t file, uint64_t offset, std::span<const std::byte> bytes) {
    if (direct_refused_ || reinterpret_cast<uintptr_t>(bytes.data()) % kPage != 0) return false;
    const auto target = direct_.get(file);
    if (!target->is_direct()) return false;
    try {
      target->write(offset, bytes);
    } catch (const SystemError& error) {
      if (error.error_number() != EINVAL) throw;
      direct_refused_ = true;
      return false;
    }
    return true;
  }

  template <class Work>
  void naming_space(Work&& work) {
    try {
      work();
    } catch (const SystemError& error) {
      if (!is_full(error.error_number())) throw;
      throw SystemError(fmt::format("there is no room for {} in {}, where {} were free at the start; make room, or "
                                    "choose another disk",
                                    human_bytes(total_), directory_.string(), human_bytes(free_at_start_)),
                        error.error_number());
    }
  }

  Path directory_;
  OpenFiles direct_, plain_;
  EdgeBuffer edges_;
  std::vector<uint32_t> made_;
  uint64_t total_ = 0, free_at_start_ = 0;
  std::atomic<bool> direct_refused_{false};
};

}  // namespace

std::unique_ptr<ByteSource> file_source(const std::vector<Path>& files) {
  return std::make_unique<FileSource>(files);
}

std::unique_ptr<ByteSource> open_source(const TransferPlan& plan) { return open_source(plan, plan.source_files); }

std::unique_ptr<ByteSource> open_source(const TransferPlan& plan, const std::vector<Path>& files) {
  return plan.store ? plan.store->open(files) : file_source(files);
}

size_t ByteSource::read_parts(uint32_t file, uint64_t offset, std::span<const std::span<std::byte>> parts) {
  size_t count = 0;
  for (const std::span<std::byte> part : parts) {
    const size_t there = read(file, offset + count, part);
    count += there;
    if (there < part.size()) break;
  }
  return count;
}

std::unique_ptr<ByteSink> file_sink(const Path& directory, const std::vector<formats::TargetFile>& files,
                                    const std::vector<bool>& only) {
  return std::make_unique<FileSink>(directory, files, only);
}

}  // namespace viaduct::bridge
