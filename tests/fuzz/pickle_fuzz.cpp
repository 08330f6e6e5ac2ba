// Pickles: parsed under both rules for unknown classes, then as the index of a torch_dist checkpoint, then as the
// object of a torch file. What parses and is plain is written and read again.
#include <cstddef>
#include <cstdint>
#include <string>

#include "viaduct/core/error.h"
#include "viaduct/formats/pickle.h"
#include "viaduct/formats/torch_dist_metadata.h"
#include "viaduct/formats/torch_file.h"
#include "viaduct/formats/zip_archive.h"

namespace {

using namespace viaduct::formats;

template <class Work>
void attempt(const Work& work) {
  try {
    work();
  } catch (const viaduct::UserError&) {  // an InternalError is a finding
  }
}

void read_object(const std::string& pickle) {
  ZipWriter zip(ZipStyle::kTorch);
  zip.add("archive/data.pkl", pickle);
  zip.add("archive/data/0", "0123456789abcdef0123456789abcdef");
  const std::string archive = zip.finish().head;
  const PickleValue value = read_torch_object(std::as_bytes(std::span(archive)), "input");
  value.to_text();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string pickle(reinterpret_cast<const char*>(data), size);
  for (const auto unknown : {PickleOptions::Unknown::kRefuse, PickleOptions::Unknown::kOpaque})
    attempt(
        [&] { PickleDocument::parse(pickle, {.origin = "input", .unknown = unknown, .max_memory = 8u << 20}); });
  attempt([&] { parse_torch_dist_metadata(pickle, "input"); });
  attempt([&] { read_object(pickle); });
  return 0;
}
