// torch_dist folders of an index and one data file. Input: u32 size of .metadata, .metadata, the data file's bytes.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "viaduct/core/error.h"
#include "viaduct/formats/torch_dist.h"

namespace {

using namespace viaduct::formats;

// One folder for the whole run, in memory where that is possible.
class Folder {
 public:
  Folder() {
    const viaduct::Path memory = "/dev/shm";
    const bool there = std::filesystem::is_directory(memory) && ::access(memory.c_str(), W_OK) == 0;
    path_ =
        (there ? memory : std::filesystem::temp_directory_path()) / ("viaduct-fuzz-" + std::to_string(::getpid()));
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  const viaduct::Path& path() const { return path_; }
  void write(const char* name, const uint8_t* data, size_t size) const {
    const viaduct::File file = viaduct::File::open(path_ / name, viaduct::File::Mode::kWrite);
    file.resize(0);
    file.write(0, std::as_bytes(std::span(data, size)));
  }

 private:
  viaduct::Path path_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Folder folder;
  uint32_t split = 0;
  if (size < sizeof split) return 0;
  std::memcpy(&split, data, sizeof split);
  data += sizeof split;
  size -= sizeof split;
  const size_t first = split < size ? split : size;
  folder.write(".metadata", data, first);
  folder.write("__0_0.distcp", data + first, size - first);
  try {
    const auto reader = TorchDistReader::open(folder.path());
    for (const StoredTensor& tensor : reader->tensors()) {
      try {
        read_tensor(*reader, tensor, 1 << 20);
      } catch (const viaduct::UserError&) {
      }
    }
    for (const StoredObject& object : reader->objects()) {
      try {
        reader->read_value(object);
      } catch (const viaduct::UserError&) {
      }
    }
  } catch (const viaduct::UserError&) {  // an InternalError is a finding
  }
  return 0;
}
