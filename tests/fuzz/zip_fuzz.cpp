// Zip archives: the directory, then every entry.
#include <cstddef>
#include <cstdint>
#include <span>

#include "viaduct/core/error.h"
#include "viaduct/formats/zip_archive.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace viaduct::formats;
  try {
    const ZipArchive archive = ZipArchive::open(std::as_bytes(std::span(data, size)), "input");
    archive.root();
    for (const ZipEntry& entry : archive.entries()) {
      try {
        // What an entry gives is never more than the archive holds.
        if (archive.read(entry, size).size() > size) __builtin_trap();
      } catch (const viaduct::UserError&) {
      }
    }
  } catch (const viaduct::UserError&) {  // an InternalError is a finding
  }
  return 0;
}
