// GGUF headers, and what is rebuilt from them: config.json, names, tokenizer.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"
#include "viaduct/models/gguf_source.h"

namespace {

// The reader takes a path: the input becomes a file in memory.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : fd_(memfd_create("gguf", 0)) {
    for (size_t done = 0; done < size;) {
      const ssize_t n = write(fd_, data + done, size - done);
      if (n <= 0) break;
      done += static_cast<size_t>(n);
    }
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const MemoryFile input(data, size);
  try {
    const auto file = viaduct::formats::open_gguf(input.path());
    for (const auto& tensor : file->tensors()) {
      const std::vector<std::byte> stored = read_tensor(*file, tensor, 1 << 20);
      const int64_t count = num_elements(tensor.shape);
      std::vector<std::byte> values(static_cast<size_t>(count) * 2);
      viaduct::convert(tensor.dtype, stored.data(), viaduct::DType::kBF16, values.data(), count);
    }
    viaduct::models::read_gguf_model(*file);
  } catch (const viaduct::UserError&) {  // an InternalError is a finding
  }
  return 0;
}
