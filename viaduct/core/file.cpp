#include "viaduct/core/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "viaduct/core/error.h"

namespace viaduct {

File File::open(const Path& path, Mode mode) {
  const bool write = mode == Mode::kWrite || mode == Mode::kWriteDirect;
  const bool direct = mode == Mode::kReadDirect || mode == Mode::kWriteDirect;
  const int flags = (write ? O_RDWR | O_CREAT : O_RDONLY) | O_CLOEXEC;
  File file;
  file.path_ = path;
  if (direct) {
    file.fd_ = ::open(path.c_str(), flags | O_DIRECT, 0666);
    file.direct_ = file.fd_ >= 0;
  }
  // EINVAL is what a file system without O_DIRECT answers; any other failure is reported by the plain open.
  if (file.fd_ < 0) file.fd_ = ::open(path.c_str(), flags, 0666);
  if (file.fd_ < 0)
    throw_system(fmt::format("cannot open {} for {}", path.string(), write ? "writing" : "reading"));
  struct stat status;
  if (::fstat(file.fd_, &status) == 0 && S_ISDIR(status.st_mode))
    throw_system(fmt::format("cannot open {} as a file", path.string()), EISDIR);
  return file;
}

File::File(File&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), direct_(other.direct_), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
    direct_ = other.direct_;
    path_ = std::move(other.path_);
  }
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

uint64_t File::size() const {
  struct stat status;
  if (::fstat(fd_, &status) != 0) throw_system(fmt::format("cannot read the size of {}", path_.string()));
  return static_cast<uint64_t>(status.st_size);
}

void File::expect_scattered_reads() const { (void)::posix_fadvise(fd_, 0, 0, POSIX_FADV_RANDOM); }

size_t File::read_some(uint64_t offset, std::span<std::byte> to) const {
  size_t done = 0;
  while (done < to.size()) {
    const ssize_t n = ::pread(fd_, to.data() + done, to.size() - done, static_cast<off_t>(offset + done));
    if (n < 0) {
      if (errno == EINTR) continue;
      throw_system(fmt::format("cannot read {} bytes at offset {} of {}", to.size(), offset, path_.string()));
    }
    if (n == 0) break;
    done += static_cast<size_t>(n);
    if (direct_ && done % 4096 != 0) break;  // only the end of the file is read short under O_DIRECT
  }
  return done;
}

void File::read(uint64_t offset, std::span<std::byte> to) const {
  const size_t n = read_some(offset, to);
  VIADUCT_USER_CHECK(
      n == to.size(),
      "{} ends early: {} bytes wanted at offset {}, {} are there. The file is truncated: copy it again",
      path_.string(), to.size(), offset, n);
}

void File::write(uint64_t offset, std::span<const std::byte> from) const {
  size_t done = 0;
  while (done < from.size()) {
    const ssize_t n = ::pwrite(fd_, from.data() + done, from.size() - done, static_cast<off_t>(offset + done));
    if (n < 0) {
      if (errno == EINTR) continue;
      throw_system(fmt::format("cannot write {} bytes at offset {} of {}", from.size(), offset, path_.string()));
    }
    done += static_cast<size_t>(n);
  }
}

void File::resize(uint64_t size) const {
  if (::ftruncate(fd_, static_cast<off_t>(size)) != 0)
    throw_system(fmt::format("cannot set the size of {} to {}", path_.string(), size));
}

void File::sync() const {
  if (::fsync(fd_) != 0) throw_system(fmt::format("cannot sync {}", path_.string()));
}

void File::close() {
  if (fd_ >= 0 && ::close(std::exchange(fd_, -1)) != 0)
    throw_system(fmt::format("cannot close {}", path_.string()));
}

std::string read_text_file(const Path& path, uint64_t limit) {
  const File file = File::open(path, File::Mode::kRead);
  const uint64_t size = file.size();
  VIADUCT_USER_CHECK(size <= limit, "{} has {} bytes, more than the {} that such a file may have", path.string(),
                     size, limit);
  std::string text(size, '\0');
  text.resize(file.read_some(0, std::as_writable_bytes(std::span(text))));
  return text;
}

void write_file(const Path& path, std::string_view content) {
  File file = File::open(path, File::Mode::kWrite);
  file.resize(0);
  file.write(0, std::as_bytes(std::span(content)));
  file.sync();
  file.close();
}

Path staging_name(const Path& path) {
  static std::atomic<uint64_t> count = 0;
  Path staged = path;
  staged += fmt::format(".viaduct-partial-{}-{}", ::getpid(), count++);
  return staged;
}

void write_file_atomically(const Path& path, std::string_view content) {
  const Path staged = staging_name(path);
  write_file(staged, content);
  std::filesystem::rename(staged, path);
  sync_directory(path.has_parent_path() ? path.parent_path() : Path("."));
}

void sync_directory(const Path& directory) {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw_system(fmt::format("cannot open the directory {}", directory.string()));
  const int result = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  // Some network file systems cannot sync a directory and say EINVAL.
  if (result != 0 && error != EINVAL) throw_system(fmt::format("cannot sync {}", directory.string()), error);
}

uint64_t free_space(const Path& path) {
  Path existing = std::filesystem::absolute(path);
  while (!std::filesystem::exists(existing) && existing.has_relative_path()) existing = existing.parent_path();
  struct statvfs status;
  if (::statvfs(existing.c_str(), &status) != 0)
    throw_system(fmt::format("cannot read the free space of {}", existing.string()));
  return uint64_t{status.f_bavail} * status.f_frsize;
}

namespace {

// A line of /proc/self/status that counts kB, in bytes; 0 where there is none.
uint64_t status_bytes(std::string_view field) {
  char buffer[8192];
  std::FILE* file = std::fopen("/proc/self/status", "r");
  if (!file) return 0;
  const std::string status(buffer, std::fread(buffer, 1, sizeof buffer, file));
  std::fclose(file);
  const size_t at = status.find(field);
  return at == std::string::npos ? 0 : std::strtoull(status.c_str() + at + field.size(), nullptr, 10) * 1024;
}

}  // namespace

uint64_t resident_memory() { return status_bytes("VmRSS:"); }
uint64_t peak_resident_memory() { return status_bytes("VmHWM:"); }

}  // namespace viaduct
