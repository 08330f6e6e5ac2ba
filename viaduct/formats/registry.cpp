#include "viaduct/core/error.h"
#include "viaduct/formats/gguf.h"
#include "viaduct/formats/hf_directory.h"
#include "viaduct/formats/rank_folders.h"
#include "viaduct/formats/safetensors.h"
#include "viaduct/formats/tensor_io.h"
#include "viaduct/formats/torch_dist.h"
#include "viaduct/formats/torch_file.h"

namespace viaduct::formats {

namespace {

// One line a format: how it is recognised, how it is opened.
struct Format {
  std::string_view what;
  bool (*is)(const Path&);
  std::unique_ptr<TensorReader> (*open)(const Path&);
};

constexpr Format kFormats[] = {
    {"a safetensors file", is_safetensors_file, open_safetensors},
    {"a GGUF file", [](const Path& path) { return std::filesystem::is_regular_file(path) && is_gguf(path); },
     [](const Path& path) -> std::unique_ptr<TensorReader> { return open_gguf(path); }},
    {"a torch.save file in zip form", is_torch_file,
     [](const Path& path) { return open_torch_file(path, {.unknown_classes = true}); }},
    {"a torch_dist iteration folder (.metadata)", is_torch_dist_directory, open_torch_dist},
    {"an iteration folder of Megatron-LM's torch format (mp_rank_*)",
     [](const Path& path) { return std::filesystem::is_directory(path) && has_rank_folders(path); },
     open_rank_folders},
    {"a Hugging Face folder with weights", has_hf_weights,
     [](const Path& path) -> std::unique_ptr<TensorReader> { return open_hf_directory(path); }},
};

}  // namespace

std::unique_ptr<TensorReader> open_reader(const Path& path) {
  VIADUCT_USER_CHECK(std::filesystem::exists(path), "{} does not exist", path.string());
  std::string looked_for;
  for (const Format& format : kFormats) {
    if (format.is(path)) return format.open(path);
    looked_for += fmt::format("{}{}", looked_for.empty() ? "" : ", ", format.what);
  }
  throw UserError(
      fmt::format("{} is no checkpoint in a known format; it is none of: {}", path.string(), looked_for));
}

}  // namespace viaduct::formats
