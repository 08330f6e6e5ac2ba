// Files: open, positioned reads and writes that finish or throw, whole small files, directories.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace viaduct {

/// A path of the file system.
using Path = std::filesystem::path;

/// An open file. Movable; closes on destruction. Every failure is a SystemError that names the path.
class File {
 public:
  enum class Mode { kRead, kReadDirect, kWrite, kWriteDirect };  // Direct: O_DIRECT, falls back when refused

  File() = default;
  /// kWrite creates the file where there is none and never truncates it.
  static File open(const Path& path, Mode mode);
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  /// False for a File without a file: default-constructed, moved from, or closed.
  bool is_open() const { return fd_ >= 0; }
  /// True when the file was really opened with O_DIRECT: offsets, sizes and addresses must be multiples of 4096.
  bool is_direct() const { return direct_; }

  /// The path as it was opened.
  const Path& path() const { return path_; }
  /// The descriptor, which stays the property of this object; -1 when it is not open.
  int fd() const { return fd_; }

  /// Bytes that the file has now.
  uint64_t size() const;
  /// Only parts of the file will be read: the kernel is not to read on behind them.
  void expect_scattered_reads() const;
  /// Reads exactly `to.size()` bytes; UserError naming path and offset when the file ends before.
  void read(uint64_t offset, std::span<std::byte> to) const;
  /// Reads up to `to.size()` bytes, less at the end of the file; returns the number read.
  size_t read_some(uint64_t offset, std::span<std::byte> to) const;
  /// Writes all bytes at `offset`; beyond the end the file grows.
  void write(uint64_t offset, std::span<const std::byte> from) const;
  /// Cuts the file to `size` bytes or adds zeros up to it.
  void resize(uint64_t size) const;
  /// fsync: the bytes are on the disk when this returns.
  void sync() const;
  /// Closes before destruction, which cannot report errors.
  void close();

 private:
  int fd_ = -1;
  bool direct_ = false;
  Path path_;
};

/// The whole of a small file. UserError when it is larger than `limit` bytes.
std::string read_text_file(const Path& path, uint64_t limit = 256u << 20);
/// A name beside `path` that no other thread or process is given: what is written there is renamed to `path`.
Path staging_name(const Path& path);
/// Writes, fsyncs and renames into place.
void write_file_atomically(const Path& path, std::string_view content);
/// Writes and fsyncs, without a rename.
void write_file(const Path& path, std::string_view content);
/// fsync of a directory: the names in it survive a crash. SystemError.
void sync_directory(const Path& directory);
/// Bytes an unprivileged user may still write on the file system that holds (the nearest existing parent of)
/// `path`.
uint64_t free_space(const Path& path);

/// Resident memory of this process (VmRSS) in bytes.
uint64_t resident_memory();
/// The most that it was (VmHWM) in bytes.
uint64_t peak_resident_memory();

}  // namespace viaduct
