#include "viaduct/core/mapped_file.h"

#include <sys/mman.h>

#include <utility>

#include "viaduct/core/error.h"

namespace viaduct {

MappedFile::MappedFile(const Path& path) {
  const File file = File::open(path, File::Mode::kRead);
  const uint64_t size = file.size();
  if (size == 0) return;
  void* memory = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd(), 0);
  if (memory == MAP_FAILED) throw_system(fmt::format("cannot map the {} bytes of {}", size, path.string()));
  bytes_ = {static_cast<const std::byte*>(memory), size};
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace viaduct
