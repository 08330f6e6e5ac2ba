#include "viaduct/core/append_file.h"

#include "viaduct/core/error.h"

namespace viaduct {

namespace {
constexpr size_t kBufferBytes = 1 << 20;
}

AppendFile::AppendFile(const Path& path, uint64_t keep)
    : file_(File::open(path, File::Mode::kWrite)), written_(keep) {
  const uint64_t size = file_.size();
  VIADUCT_USER_CHECK(size >= keep, "{} has {} bytes, of which {} are to be kept: it was cut; start over",
                     path.string(), size, keep);
  file_.resize(keep);
}

void AppendFile::append(std::span<const std::byte> bytes) {
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() >= kBufferBytes) {
    file_.write(written_, bytes);
    written_ += bytes.size();
  } else {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
}

void AppendFile::flush() {
  file_.write(written_, buffer_);
  written_ += buffer_.size();
  buffer_.clear();
}

void AppendFile::sync() {
  flush();
  file_.sync();
}

void AppendFile::close() {
  sync();
  file_.close();
}

}  // namespace viaduct
