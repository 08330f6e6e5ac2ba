#include "viaduct/adapters/peft_file.h"

#include "viaduct/core/error.h"
#include "viaduct/formats/safetensors.h"
#include "viaduct/formats/torch_file.h"

namespace viaduct::adapters {

namespace fs = std::filesystem;
using formats::StoredTensor;

namespace {

// One tensor of the file, its name taken apart.
struct PeftTensor {
  std::string module;  // without "base_model.model.", ".base_layer" kept
  Half half{};
  const StoredTensor* stored = nullptr;
};

PeftTensor take_apart(const StoredTensor& stored, const std::string& file) {
  const std::string& name = stored.name;
  const auto fail = [&](const char* what) -> void {
    throw UserError(fmt::format("{}: {} is {}, which cannot be converted", file, name, what));
  };
  if (name.find("lora_embedding_") != std::string::npos) fail("an adapter of an embedding");
  if (name.find(".modules_to_save.") != std::string::npos) fail("a whole module (modules_to_save)");
  if (name.find(".lora_B.bias") != std::string::npos || name.ends_with(".lora_B.default.bias"))
    fail("a trained bias");
  constexpr std::string_view kPrefix = "base_model.model.";
  const struct {
    std::string_view word;
    Half half;
  } kHalves[] = {{".lora_A", Half::kA}, {".lora_B", Half::kB}, {".lora_magnitude_vector", Half::kMagnitude}};
  for (const auto& [word, half] : kHalves) {
    const size_t at = name.rfind(word);
    if (at == std::string::npos || !name.starts_with(kPrefix)) continue;
    // Some files keep the adapter's own name: lora_A.default.weight.
    const std::string_view rest = std::string_view(name).substr(at + word.size());
    const bool known = rest == ".weight" || rest == ".default.weight" || (half == Half::kMagnitude && rest.empty());
    if (!known) continue;
    return {name.substr(kPrefix.size(), at - kPrefix.size()), half, &stored};
  }
  throw UserError(
      fmt::format("{}: {} is no tensor of a LoRA adapter (base_model.model.MODULE.lora_A.weight, lora_B, "
                  "lora_magnitude_vector)",
                  file, name));
}

}  // namespace

PeftFile open_peft_file(const Path& folder) {
  PeftFile result;
  const Path safetensors = folder / "adapter_model.safetensors", bin = folder / "adapter_model.bin";
  if (fs::exists(safetensors)) {
    auto opened = std::make_unique<formats::SafetensorsFile>(safetensors);
    result.header = opened->header().text;
    result.reader = std::move(opened);
    result.path = safetensors.string();
  } else {
    VIADUCT_USER_CHECK(fs::exists(bin),
                       "{} has adapter_config.json, but neither adapter_model.safetensors nor "
                       "adapter_model.bin",
                       folder.string());
    result.reader = formats::open_torch_file(bin);
    result.path = bin.string();
  }
  VIADUCT_USER_CHECK(!result.reader->tensors().empty(), "{} holds no tensor", result.path);
  for (const StoredTensor& stored : result.reader->tensors()) {
    const PeftTensor tensor = take_apart(stored, result.path);
    const StoredTensor*& place = result.modules[tensor.module][tensor.half];
    VIADUCT_USER_CHECK(!place, "{}: {} and {} are the same tensor of one adapter", result.path, place->name,
                       stored.name);
    place = &stored;
  }
  return result;
}

}  // namespace viaduct::adapters
